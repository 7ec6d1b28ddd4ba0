"""What the command line asks of a calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monitor.calibration.settings import Method, Scope, Settings
from monitor.errors import FeaturewatchError

ENGINES = ("vllm", "hf")


@dataclass(frozen=True)
class Request:
    """Fields as the options of `featurewatch policy calibrate`; raises FeaturewatchError for those that do not go
    together."""

    policy: Path
    zoo: tuple[Path, ...]
    model: str
    data: tuple[Path, ...]
    benign: tuple[Path, ...]
    harmful: tuple[Path, ...]
    records: Path | None
    keep_share: float | None
    labels: tuple[Path, ...]
    engine: str
    dtype: str
    context: int
    max_tokens: int
    engine_args: str
    target: float | None
    confidence: float
    empirical: bool
    scope: str
    warn_share: float | None
    split: str
    limit: int
    holdout_share: float
    holdout_sources: tuple[str, ...]
    check: bool
    baseline: Path | None
    write: bool
    report: Path | None
    as_json: bool

    def __post_init__(self) -> None:
        texts = bool(self.data or self.benign or self.harmful)
        if self.records is None:
            _require(texts, "nothing to calibrate on", "texts or recorded traffic are needed", "give --data FILE")
            _require(bool(self.model), "texts without --model", "a model computes them", "give its folder or alias")
        else:
            _require(
                not texts and not self.model,
                "--records with texts or a model",
                "recorded scores were computed where the traffic was served, others would be mixed with them",
                "leave --data, --benign, --harmful and --model out",
            )
            _require(
                self.keep_share is not None,
                "--records without --keep-share",
                "a store holds all that was flagged, but of other traffic only the share that its sidecar kept: with "
                "the one weighed like the other, rates and thresholds would be far too high",
                "give the --keep-share of that sidecar; 1 if it kept everything",
            )
        _require(
            not self.labels or self.records is not None,
            "--labels without --records",
            "they are labels of recorded generations",
            "add --records STORE; texts have their labels in --data",
        )
        _require(
            self.keep_share is None or (self.records is not None and 0 < self.keep_share <= 1),
            f"--keep-share {self.keep_share}",
            "it is the share of recorded traffic that the sidecar kept, above 0 and up to 1",
            "give the sidecar's --keep-share, with --records",
        )
        _require(
            self.engine in ENGINES, f"--engine {self.engine}", f"it is {' or '.join(ENGINES)}", "choose one of them"
        )
        scopes = [scope.value for scope in Scope]
        _require(self.scope in scopes, f"--target {self.scope}", f"it is {' or '.join(scopes)}", "choose one of them")
        fits = {"--write": self.write, "--holdout-share": self.holdout_share, "--holdout-source": self.holdout_sources}
        for option in [name for name, given in fits.items() if given and self.check]:
            _require(False, f"{option} with --check", "a check fits no thresholds", "leave one of them out")
        _require(
            self.baseline is None or self.check, "--baseline", "a check compares with it", "add --check or leave it out"
        )
        for option in self._without_effect():
            by = "--records" if self.records else f"--engine {self.engine}"
            _require(False, f"{option} with {by}", "it has no effect there", "leave one of them out")

    def _without_effect(self) -> list[str]:
        """Options that say how texts are chosen and computed, where that is not what happens."""
        of_vllm = {"--engine-args": bool(self.engine_args), "--max-tokens": self.max_tokens != 1}
        of_texts = {"--split": bool(self.split), "--limit": self.limit > 0, "--dtype": bool(self.dtype)}
        given = {} if self.engine == "vllm" else of_vllm
        if self.records is not None:
            given = of_texts | of_vllm | {"--engine hf": self.engine == "hf"}
        return [option for option, is_given in given.items() if is_given]

    def settings(self, default_target: float) -> Settings:
        """Raises FeaturewatchError."""
        return Settings(
            target=default_target if self.target is None else self.target,
            confidence=self.confidence,
            method=Method.EMPIRICAL if self.empirical else Method.GUARANTEED,
            scope=Scope(self.scope),
            warn_share=self.warn_share,
        )


def _require(holds: bool, subject: str, rule: str, remedy: str) -> None:
    if not holds:
        raise FeaturewatchError(subject, rule, remedy)
