"""The same tokens through Hugging Face: what the tap should have seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitor.cli.verify.canaries import Canary
from monitor.cli.verify.sidecar_side import Rows
from monitor.sae import HookPoint


@dataclass(frozen=True)
class Difference:
    """How far the observed rows of one hook point are from the reference.

    Attributes:
        rows: compared.
        worst, median: of |observed - reference| / |reference| over rows, 2-norms.
    """

    hook_point: str
    rows: int
    worst: float
    median: float


class Truth:
    """A Hugging Face model in float32, cut behind the deepest hook point. Needs the `training` extra."""

    def __init__(self, model: str, hook_points: Sequence[str], device: str) -> None:
        from training.harvest.residuals import ResidualModel

        points = [HookPoint.parse(name) for name in hook_points]
        self._model = ResidualModel(model, points, dtype="float32", device=device)

    def differences(self, canaries: Sequence[Canary], observed: Sequence[Rows]) -> list[Difference]:
        """One per hook point, over all canaries; `observed` in their order."""
        errors: dict[str, list[float]] = {str(point): [] for point in self._model.hook_points}
        for canary, rows in zip(canaries, observed, strict=True):
            ids_1t = np.array([canary.token_ids[: canary.positions]], np.int64)
            for point, truth_1td in self._model.residuals(ids_1t).items():
                truth_td = truth_1td[0].numpy()
                for position, row_d in rows.get(str(point), {}).items():
                    if position < len(truth_td):
                        expected_d = truth_td[position]
                        error = np.linalg.norm(row_d - expected_d) / np.linalg.norm(expected_d)
                        errors[str(point)].append(float(error))
        return [
            # numpy's maximum is NaN where one of them is; Python's would pass it over.
            Difference(name, len(found), *((float(np.max(found)), float(np.median(found))) if found else (np.inf,) * 2))
            for name, found in errors.items()
        ]
