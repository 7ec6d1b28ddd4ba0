"""The detectors of one SAE, scored on val, with the rules that can use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.sae import Catalog, HookPoint
from training.discovery.capture import PromptRows
from training.discovery.config import DiscoverConfig
from training.discovery.fit import Detectors, fit_detectors
from training.discovery.online import prompt_scores
from training.discovery.prompt import Prompt
from training.discovery.rules import Choice, fitted_rules
from training.discovery.statistics import area_text, auroc

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Tried:
    """One hook point's detectors with their val scores and the rules that use them, the best first."""

    detectors: Detectors
    scores: dict[str, Floats]
    auroc: dict[str, float]
    rules: list[Choice]

    @property
    def choice(self) -> Choice:
        return self.rules[0]

    @property
    def line(self) -> str:
        """For the console."""
        areas = ", ".join(f"{name} {area:.3f}" for name, area in self.auroc.items())
        unseen = ", ".join(f"{name} {area_text(area)}" for name, area in self.detectors.unseen_sources.items())
        return (
            f"{self.detectors.hook_point}: val AUROC {areas}; on unseen sources {unseen}; "
            f"best rule {self.choice.when!r} with recall {self.choice.recall:.1%}"
        )


def try_sae(config: DiscoverConfig, catalog: Catalog, sae: str, prompts: Sequence[Prompt], rows: PromptRows) -> Tried:
    """Fits on the train split and scores the val split."""
    dictionary = catalog.load(sae)
    is_val_p = np.array([prompt.is_val for prompt in prompts])
    # A prompt without a single content token has nothing to learn from.
    is_train_p = ~is_val_p & (np.diff(rows.starts_p1) > 0)
    train_rows_nd, train_starts = rows_of(rows, dictionary.hook_point, is_train_p)
    train = [prompt for prompt, wanted in zip(prompts, is_train_p, strict=True) if wanted]
    detectors = fit_detectors(sae, dictionary, train_rows_nd, train_starts, prompts=train, config=config)
    val_rows_nd, val_starts = rows_of(rows, dictionary.hook_point, is_val_p)
    scores = {
        name: prompt_scores(scores_n, val_starts, config.window, config.min_tokens)
        for name, scores_n in detectors.token_scores(val_rows_nd).items()
    }
    positive_p = np.array([prompt.is_positive for prompt in prompts])[is_val_p]
    areas = {name: float(auroc(scores_p[:, None], positive_p)[0]) for name, scores_p in scores.items()}
    return Tried(detectors, scores, areas, fitted_rules(scores, positive_p, config))


def rows_of(rows: PromptRows, point: HookPoint, chosen_p: Bools) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Rows of the chosen prompts and where each prompt begins among them."""
    lengths_p = np.diff(rows.starts_p1)
    rows_nd = rows.residuals[point][np.repeat(chosen_p, lengths_p)]
    return rows_nd, np.concatenate([[0], np.cumsum(lengths_p[chosen_p])]).astype(np.int64)
