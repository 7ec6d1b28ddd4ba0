"""Writes new thresholds into a policy's text and leaves everything else, comments and layout too, as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from monitor.calibration.levels import Levels, with_levels
from monitor.calibration.yaml_edit import Edits, entry
from monitor.policy import Policy, parse_policy
from monitor.policy.schema.detector import Calibration
from monitor.policy.schema.metadata import FittedOn

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./@+-]*(:[A-Za-z0-9_./@+-]+)*")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off"})

Scalar = float | int | str


@dataclass(frozen=True)
class Change:
    """What is to be stated of a policy.

    Attributes:
        levels: per detector.
        calibrations: per detector, by the keys of the file; all others of an older block go.
        fitted_on: by the keys of the file; others that are stated stay.
    """

    levels: Mapping[str, Levels]
    calibrations: Mapping[str, Mapping[str, Scalar]]
    fitted_on: Mapping[str, str]


def changed_text(policy: Policy, change: Change) -> str:
    """The policy's text with `change` and the next revision.

    Raises:
        RuntimeError: what the new text means is not what was to be stated; nothing was written.
    """
    text = policy.source
    edits = Edits(text)
    root = yaml.compose(text, Loader=yaml.BaseLoader)
    metadata, spec = entry(root, "metadata"), entry(root, "spec")
    if metadata is None or spec is None:
        raise RuntimeError(f"{policy.file}: a policy that was read has metadata and spec")
    edits.update(metadata.value, {"revision": str(policy.revision + 1)})
    detectors = entry(spec.value, "detectors")
    for node in detectors.value.value if detectors else ():
        name = str(found.value.value) if (found := entry(node, "id")) else ""
        threshold = entry(node, "threshold")
        if name not in change.levels or threshold is None:
            continue
        levels = change.levels[name]
        shown = {"warn": levels.warn, "fire": levels.fire, "clear": levels.clear}
        edits.update(threshold.value, {key: _plain(value) for key, value in shown.items() if value is not None})
        fields = {key: _plain(value) for key, value in change.calibrations[name].items()}
        edits.block(node, "calibration", fields, after="threshold", only_these=True)
    if change.fitted_on:
        fitted = {key: _plain(value) for key, value in change.fitted_on.items()}
        edits.block(spec.value, "fittedOn", fitted, before="detectors", only_these=False)
    new = edits.applied()
    _require_meaning(policy, change, new)
    return new


def _require_meaning(policy: Policy, change: Change, text: str) -> None:
    """Layouts are without number; what the text means is not."""
    document = with_levels(policy, change.levels).document
    spec = document.spec
    detectors = tuple(
        detector.model_copy(update={"calibration": Calibration.model_validate(dict(change.calibrations[detector.id]))})
        if detector.id in change.calibrations
        else detector
        for detector in spec.detectors
    )
    stated = spec.fitted_on.model_dump(by_alias=True, exclude_none=True) | dict(change.fitted_on)
    update = {"detectors": detectors, "fitted_on": FittedOn.model_validate(stated)}
    expected = document.model_copy(
        update={
            "metadata": document.metadata.model_copy(update={"revision": policy.revision + 1}),
            "spec": spec.model_copy(update=update),
        }
    )
    if parse_policy(text, policy.file).document.model_dump() != expected.model_dump():
        raise RuntimeError(f"{policy.file}: the thresholds could not be written into its layout")


def _plain(value: Scalar) -> str:
    """As YAML writes it."""
    if isinstance(value, str):
        is_plain = _DAY.fullmatch(value) or (_PLAIN.fullmatch(value) and value.casefold() not in _WORDS)
        return value if is_plain else json.dumps(value, ensure_ascii=False)
    return str(value) if isinstance(value, int) else f"{value:.10g}"
