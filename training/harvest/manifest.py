"""The manifest of an activation cache: what the rows were made from, and how many there are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training import durable
from training.harvest.config import HarvestConfig
from training.harvest.store import STORE_DTYPES

MANIFEST = "manifest.json"
NORM_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99, 1.0)
_DEFAULTS = {item.name: item.default for item in fields(HarvestConfig)}


@dataclass
class Manifest:
    """State and description of a cache.

    Attributes:
        width: of the residual stream.
        settings: of the harvest, in JSON form; the dtype is the one that was used, never `auto`.
        identity: hashes of what the rows were made from (see `training.identity`); the version of vLLM if it was used.
        engine: what the tap told of the vLLM engine that computed them; empty without one.
        widths: values per row at the hook points where it is not `width`.
        checksums: CRC-32 of each shard's file per hook point; an older cache has none.
        heldout_checksums: CRC-32 of the held-out files.
        norm_quantiles: of the norms of content rows per hook point, in the first batches, before outliers are left out.
    """

    width: int
    hook_points: list[str]
    store_dtype: str
    shard_rows: list[int]
    settings: dict[str, Any]
    identity: dict[str, str] = field(default_factory=dict)
    heldout_rows: int = 0
    heldout_sequences: int = 0
    batches_done: int = 0
    complete: bool = False
    medians: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    heldout_counts: dict[str, int] = field(default_factory=dict)
    outliers_by_hook_point: dict[str, int] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    forward_dtype: str = ""
    engine: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    widths: dict[str, int] = field(default_factory=dict)
    checksums: dict[str, list[int]] = field(default_factory=dict)
    heldout_checksums: dict[str, int] = field(default_factory=dict)
    norm_quantiles: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(self.shard_rows)

    def width_of(self, hook_point: str) -> int:
        return self.widths.get(hook_point, self.width)

    def save(self, folder: Path) -> None:
        part = folder / f"{MANIFEST}.part"
        part.write_text(json.dumps(asdict(self), indent=2))
        durable.replace(part, folder / MANIFEST)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Raises FeaturewatchError when there is none or it is not one of this version."""
        path = folder / MANIFEST
        if not path.is_file():
            raise FeaturewatchError(f"activation cache {folder}", f"it must hold {MANIFEST}", "harvest into it first")
        try:
            manifest = TypeAdapter(cls).validate_json(path.read_bytes(), strict=True, extra="forbid")
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise _damaged(folder, f"{place} {first['input']!r:.80}: {first['msg']}".strip()) from error
        if contradiction := manifest._contradiction():
            raise _damaged(folder, contradiction)
        for name in manifest.hook_points:  # they become folders
            HookPoint.parse(name)
        return manifest

    def _contradiction(self) -> str:
        """What does not fit together, in words; empty for a sound manifest."""
        points, shards = set(self.hook_points), len(self.shard_rows)
        numbers = [self.heldout_rows, self.heldout_sequences, self.batches_done, *self.shard_rows]
        fits = {
            f"width {self.width}, widths {self.widths}": min(self.width, *self.widths.values(), 1) == 1,
            f"store_dtype {self.store_dtype!r}": self.store_dtype in STORE_DTYPES,
            f"hook_points {self.hook_points}, shard_rows {self.shard_rows}": bool(points and shards),
            "a negative number of rows, sequences or batches": min(numbers, default=0) >= 0,
            f"checksums that are not those of {shards} shards at {', '.join(self.hook_points)}": not self.checksums
            or (set(self.checksums) == points and {len(held) for held in self.checksums.values()} == {shards}),
            f"medians of {', '.join(self.medians)}": not self.medians or set(self.medians) == points,
            f"norm_quantiles of {', '.join(self.norm_quantiles)}": all(
                point in points and {str(quantile) for quantile in NORM_QUANTILES} <= set(held)
                for point, held in self.norm_quantiles.items()
            ),
            f"settings.outlier_factor {self.settings.get('outlier_factor')!r}": isinstance(
                self.settings.get("outlier_factor", 1.0), int | float
            ),
            f"sources {self.sources}": all(
                isinstance(entry.get("documents"), int) and isinstance(entry.get("licences"), dict)
                for entry in self.sources.values()
            ),
        }
        return next((what for what, good in fits.items() if not good), "")

    def require_same(self, other: Manifest, folder: Path) -> None:
        """Raises FeaturewatchError unless the rows of both are made from the same things in the same way."""
        made_from = [what for what in other.identity if self.identity.get(what) != other.identity[what]]
        if made_from:
            raise FeaturewatchError(
                f"activation cache {folder}",
                f"its rows were made from another {' and another '.join(made_from)} than the one given now (the "
                "content differs, whatever the name)",
                "give another --cache folder or remove this one",
            )
        # What stands behind the names of model and data has been compared by content. A setting that is younger than
        # the cache had its default then.
        changed = [
            key
            for key, value in other.settings.items()
            if key not in ("model", "data") and self.settings.get(key, _DEFAULTS.get(key)) != value
        ]
        if changed:
            raise FeaturewatchError(
                f"activation cache {folder}",
                f"it was harvested with other settings ({', '.join(changed)})",
                "give another --cache folder or remove this one",
            )


def _damaged(folder: Path, what: str) -> FeaturewatchError:
    return FeaturewatchError(
        f"activation cache {folder} ({what})",
        f"its {MANIFEST} is damaged or of another version of featurewatch, so that it is not known which model and "
        "data its rows are from",
        "give another --cache folder or remove this one",
    )
