"""What a discovery found, as numbers for a table, a JSON file and the policy's description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.policy.binomial import sample_floor
from training.discovery.config import DiscoverConfig
from training.discovery.prompt import Prompt
from training.discovery.statistics import FalseAlarms, area_text, false_alarms

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Report:
    """Figures of the policy, on `val` unless said otherwise.

    Attributes:
        hook_point, sae, when: what was chosen.
        is_shown: whether the val negatives were enough to show the target of the thresholds.
        rules: recall of every rule that was tried at that hook point, at the same false-alarm rate.
        auroc: of the online score, per detector, for every SAE that was tried.
        unseen_sources: AUROC of the probes on train sources held out of their fit, per SAE.
        prompts: how many prompts of each split and label.
        recall: share of positives that the policy flags.
        policy: false alarms of the whole policy.
        detectors: false alarms of each detector's fire threshold.
        negatives_by_source, recall_by_source: of the whole policy.
        hard: false alarms on the negatives that were named hard, together; None if none were named.
        settings: what of the data was used, and how, so that the discovery can be repeated.
        data_sha256: of the data files.
    """

    hook_point: str
    sae: str
    when: str
    is_shown: bool
    rules: dict[str, float]
    auroc: dict[str, dict[str, float]]
    unseen_sources: dict[str, dict[str, float]]
    l2: dict[str, float]
    prompts: dict[str, int]
    recall: float
    policy: FalseAlarms
    detectors: dict[str, FalseAlarms]
    negatives_by_source: dict[str, FalseAlarms]
    recall_by_source: dict[str, tuple[int, int]]
    hard: FalseAlarms | None
    settings: dict[str, Any]
    data_sha256: str

    def description(self, config: DiscoverConfig) -> str:
        """For the policy file."""
        unseen = self.unseen_sources[self.sae]
        auroc = self.auroc[self.sae]
        parts = [
            f"Flags prompts that look like a {config.subject}, from the residual stream at {self.hook_point}.",
            f"Calibrated on user prompts only, so only the prompt is judged. On {self.policy.n:,} val negatives the "
            f"whole policy fires {self.policy.hits} times ({self.policy.rate:.2%}; with {config.confidence:.0%} "
            f"confidence at most {self.policy.upper:.2%}) and finds {self.recall:.1%} of the val positives.",
            f"Val AUROC of the online score: dense probe {auroc['dense']:.3f}, SAE probe {auroc['sae_probe']:.3f}, "
            f"latent set {auroc['latents']:.3f}, best single latent {auroc['single']:.3f}.",
        ]
        if not self.is_shown:
            parts.append(self.too_few(config))
        if self.hard is not None:
            parts.append(
                f"Of {self.hard.n} hard negatives it flags {self.hard.hits} ({self.hard.rate:.1%}); the rate above is "
                "mostly about ordinary requests."
            )
        measured = {name: area_text(area) for name, area in unseen.items()}
        parts.append(
            "Val is over-optimistic: hook point, rule and thresholds were chosen on the same prompts that give these "
            "figures, and they share their sources with the training prompts. On sources that were held out of the "
            f"fit the probes' AUROC was: dense {measured['dense']}, SAE {measured['sae_probe']}. Expect more misses "
            "and more false alarms on real traffic."
        )
        parts.append(
            f"Messages of fewer than {config.min_tokens} content tokens are never flagged. Latent labels state "
            "measured separation, not meaning."
        )
        return " ".join(parts)

    def too_few(self, config: DiscoverConfig) -> str:
        """Said where the val negatives cannot show the target."""
        floor = sample_floor(config.target_fpr, config.confidence)
        return (
            f"{self.policy.n:,} val negatives are too few to promise {config.target_fpr:.4g} with "
            f"{config.confidence:.0%} confidence, which takes at least {floor:,}: the rate holds in this sample only."
        )

    def to_json(self) -> dict[str, Any]:
        def counted(found: FalseAlarms) -> dict[str, float]:
            return {"n": found.n, "hits": found.hits, "rate": found.rate, "upper": found.upper}

        return {
            "hook_point": self.hook_point,
            "sae": self.sae,
            "when": self.when,
            "target_shown": self.is_shown,
            "rules_tried": self.rules,
            "auroc_val": self.auroc,
            "auroc_unseen_sources": {
                sae: {name: area if np.isfinite(area) else None for name, area in areas.items()}
                for sae, areas in self.unseen_sources.items()
            },
            "l2": self.l2,
            "prompts": self.prompts,
            "recall_val": self.recall,
            "false_alarms_val": {
                "policy": counted(self.policy),
                **{name: counted(found) for name, found in self.detectors.items()},
            },
            "false_alarms_by_source": {name: counted(found) for name, found in self.negatives_by_source.items()},
            "false_alarms_hard": counted(self.hard) if self.hard else None,
            "recall_by_source": {name: {"n": n, "hits": hits} for name, (n, hits) in self.recall_by_source.items()},
            "settings": self.settings,
            "data_sha256": self.data_sha256,
        }


def alarms_by_source(prompts: Sequence[Prompt], flagged_p: Bools, confidence: float) -> dict[str, FalseAlarms]:
    """False alarms of the negatives of each source."""
    sources = sorted({prompt.source for prompt in prompts if not prompt.is_positive})
    return {
        source: false_alarms(
            flagged_p[[not prompt.is_positive and prompt.source == source for prompt in prompts]], confidence
        )
        for source in sources
    }


def recall_by_source(prompts: Sequence[Prompt], flagged_p: Bools) -> dict[str, tuple[int, int]]:
    """(prompts, flagged) of the positives of each source."""
    found: dict[str, tuple[int, int]] = {}
    for prompt, flagged in zip(prompts, flagged_p.tolist(), strict=True):
        if prompt.is_positive:
            n, hits = found.get(prompt.source, (0, 0))
            found[prompt.source] = (n + 1, hits + int(flagged))
    return dict(sorted(found.items()))
