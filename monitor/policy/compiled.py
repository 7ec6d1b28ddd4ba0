"""Policies resolved against their sources: flat tables that the engine and the watch plan are made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from monitor.policy.policy import Policy
from monitor.policy.vocabulary import Phase, Severity, TokenClass


@dataclass(frozen=True)
class DirectionRef:
    """A direction that must be watched: one column of the activations.

    Attributes:
        hook_point: where it is read, e.g. ``resid_post.14``.
        kind: a latent of an SAE, or a dense probe.
        source: the SAE's id, or the probe's file relative to the policy file.
        index: the latent; -1 for a dense probe.
        label: the author's words for it, may be empty.
    """

    hook_point: str
    kind: Literal["latent", "dense"]
    source: str
    index: int
    label: str

    @property
    def name(self) -> str:
        """``<sae>/<index>``, or the probe's file name without folder and suffix."""
        if self.kind == "latent":
            return f"{self.source}/{self.index}"
        return PurePosixPath(self.source).name.removesuffix(".safetensors")


@dataclass(frozen=True)
class CompiledDetector:
    """Directions to a score per token, to an aggregate, to clear, warn or fire.

    Attributes:
        policy: name of its policy.
        id: its id within that policy.
        source: which kind of source the policy names.
        columns: indices into `PolicySet.directions`.
        weights: one per column.
        bias: added to the combined score.
        combine: of weight times activation the sum or the maximum; or 1 where at least `least` directions are over
            their bounds, else 0.
        bounds: of counting combines one per column, else empty.
        least: how many must be over their bounds: 1 for ``any``, all for ``all``, k for ``k_of_n``; else 0.
        aggregate: how token scores become one that thresholds are compared with.
        half_life: of ``ema``, in judged tokens; 0 for the others.
        window: of ``rolling_mean`` and ``count_over``, in judged tokens; 0 for the others.
        over: of ``count_over``: a token counts where its score is above this; 0 for the others.
        drift: of ``cusum``: what is taken off each token's score; 0 for the others.
        then_max: the score is the highest aggregate so far (from `min_tokens` on).
        min_tokens: judged tokens before the state may leave clear.
        skip: token classes that are not judged.
        phases: phases that are judged.
        warn, fire, clear: thresholds on the aggregated score.
    """

    policy: str
    id: str
    source: Literal["saeLatents", "saeProbe", "denseProbe"]
    columns: tuple[int, ...]
    weights: tuple[float, ...]
    bias: float
    combine: Literal["weighted_sum", "max", "any", "all", "k_of_n"]
    aggregate: Literal["ema", "rolling_mean", "max", "count_over", "cusum", "mean"]
    half_life: float
    window: int
    then_max: bool
    min_tokens: int
    skip: tuple[TokenClass, ...]
    phases: tuple[Phase, ...]
    warn: float
    fire: float
    clear: float
    bounds: tuple[float, ...] = ()
    least: int = 0
    over: float = 0.0
    drift: float = 0.0

    @property
    def name(self) -> str:
        """``<policy>/<id>``."""
        return f"{self.policy}/{self.id}"


@dataclass(frozen=True)
class CompiledRule:
    """A boolean over detector states that must hold for `hold` judged tokens.

    Attributes:
        when: the condition as written.
        program: the condition in postfix form: ``4 * detector + level`` pushes whether the detector is in that state
            (level 1 clear, 2 warn or fire, 3 fire); AND, OR, NOT combine what was pushed.
        detectors: indices into `PolicySet.detectors` of those that `when` names.
        hold: tokens of ``for``.
    """

    policy: str
    revision: int
    id: str
    severity: Severity
    hold: int
    detectors: tuple[int, ...]
    when: str
    program: tuple[int, ...]
    actions: tuple[str, ...]

    @property
    def name(self) -> str:
        """``<policy>/<id>``."""
        return f"{self.policy}/{self.id}"


@dataclass(frozen=True)
class PolicySet:
    """Everything that is judged together. Policies in mode off take no part.

    `directions` are sorted by layer and deduplicated; their order is that of the activations' columns.
    """

    policies: tuple[Policy, ...] = ()
    directions: tuple[DirectionRef, ...] = ()
    detectors: tuple[CompiledDetector, ...] = ()
    rules: tuple[CompiledRule, ...] = ()

    def policy(self, name: str) -> Policy:
        """The policy of that name; raises KeyError."""
        for policy in self.policies:
            if policy.name == name:
                return policy
        raise KeyError(name)
