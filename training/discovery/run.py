"""One discovery: labelled prompts and SAEs in, a policy file with its probes out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.console import Console

from monitor.policy import check_policy
from monitor.policy.problem import PolicyError
from monitor.sae import Catalog, HookPoint
from training.discovery.capture import PromptRows, capture
from training.discovery.config import DiscoverConfig
from training.discovery.fit import Detectors, fit_detectors
from training.discovery.judged import OneSae, Verdicts, judge
from training.discovery.online import prompt_scores
from training.discovery.policy_file import parsed, policy_text, save_probes
from training.discovery.prompts import Prompt, data_files, data_hash, load_prompts
from training.discovery.report import Report, alarms_by_source, recall_by_source
from training.discovery.rules import DETECTORS, Choice, fitted_rules
from training.discovery.statistics import auroc, false_alarms
from training.harvest.residuals import residual_width

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Tried:
    """One hook point's detectors with their val scores and the rules that use them, the best first."""

    detectors: Detectors
    scores: dict[str, Floats]
    auroc: dict[str, float]
    rules: list[Choice]

    @property
    def choice(self) -> Choice:
        return self.rules[0]


def discover_policy(config: DiscoverConfig, catalog: Catalog, console: Console) -> Report:
    """Captures the prompts once, fits at every SAE's hook point and writes the policy of the best.

    Raises:
        FeaturewatchError: unknown SAE, model, data; an SAE whose width does not fit the model.
    """
    dictionaries = {sae: catalog.load(sae) for sae in config.saes}
    width = residual_width(config.model)
    for dictionary in dictionaries.values():
        dictionary.require_width(width, config.model)
    prompts = load_prompts(config)
    points = sorted({dictionary.hook_point for dictionary in dictionaries.values()})
    rows = capture(config, points, prompts)
    return discover_from_rows(config, catalog, prompts, rows, console)


def discover_from_rows(
    config: DiscoverConfig, catalog: Catalog, prompts: Sequence[Prompt], rows: PromptRows, console: Console
) -> Report:
    """The same from captured rows; `rows` belong to `prompts` one to one."""
    is_val_p = np.array([prompt.is_val for prompt in prompts])
    val = [prompt for prompt in prompts if prompt.is_val]
    tried = []
    for sae in config.saes:
        tried.append(_try(config, catalog, sae, prompts, rows))
        console.print(_line(tried[-1]), highlight=False)
    best = max(tried, key=lambda one: one.choice.recall)
    sources = OneSae(best.detectors.sae, best.detectors.dictionary, config.policy_out.parent)
    save_probes(best.detectors, config)
    val_rows_nd, val_starts = _chosen(rows, best.detectors.hook_point, is_val_p)
    policy = parsed(policy_text(best.detectors, best.choice, config), config)
    verdicts = judge(policy, sources, val_rows_nd, val_starts)
    _require_same(verdicts, best.scores)
    report = _report(config, prompts, val, tried, best, verdicts)
    if report.policy.hits > int(config.target_fpr * report.policy.n):
        raise RuntimeError(f"the engine flags {report.policy.hits} of {report.policy.n} val negatives: over the budget")
    names = ", ".join(path.name for path in data_files(config))
    calibration = {
        name: {
            "targetFpr": config.target_fpr,
            "confidence": config.confidence,
            "benign": f"{names} (val negatives)@sha256:{report.data_sha256}",
            "n": report.detectors[name].n,
            "hits": report.detectors[name].hits,
        }
        for name in DETECTORS
    }
    text = policy_text(
        best.detectors, best.choice, config, description=report.description(config), calibration=calibration
    )
    problems = check_policy(parsed(text, config), sources, width=best.detectors.dictionary.width, model=config.model)
    if problems:
        raise PolicyError(problems)
    config.policy_out.write_text(text, encoding="utf-8")
    report_file = config.policy_out.parent / "weights" / f"{config.policy_out.stem}.report.json"
    report_file.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    return report


def _try(config: DiscoverConfig, catalog: Catalog, sae: str, prompts: Sequence[Prompt], rows: PromptRows) -> _Tried:
    dictionary = catalog.load(sae)
    is_val_p = np.array([prompt.is_val for prompt in prompts])
    # A prompt without a single content token has nothing to learn from.
    is_train_p = ~is_val_p & (np.diff(rows.starts_p1) > 0)
    train_rows_nd, train_starts = _chosen(rows, dictionary.hook_point, is_train_p)
    train = [prompt for prompt, wanted in zip(prompts, is_train_p, strict=True) if wanted]
    detectors = fit_detectors(sae, dictionary, train_rows_nd, train_starts, prompts=train, config=config)
    val_rows_nd, val_starts = _chosen(rows, dictionary.hook_point, is_val_p)
    scores = {
        name: prompt_scores(scores_n, val_starts, config.window, config.min_tokens)
        for name, scores_n in detectors.token_scores(val_rows_nd).items()
    }
    positive_p = np.array([prompt.is_positive for prompt in prompts])[is_val_p]
    areas = {name: float(auroc(scores_p[:, None], positive_p)[0]) for name, scores_p in scores.items()}
    return _Tried(detectors, scores, areas, fitted_rules(scores, positive_p, config))


def _chosen(rows: PromptRows, point: HookPoint, chosen_p: Bools) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Rows of the chosen prompts and where each prompt begins among them."""
    lengths_p = np.diff(rows.starts_p1)
    rows_nd = rows.residuals[point][np.repeat(chosen_p, lengths_p)]
    return rows_nd, np.concatenate([[0], np.cumsum(lengths_p[chosen_p])]).astype(np.int64)


def _require_same(verdicts: Verdicts, scores: dict[str, Floats]) -> None:
    """The thresholds were set on vectorised scores; they hold only if the engine gives the same."""
    for name in DETECTORS:
        ours, theirs = scores[name].astype(np.float64), verdicts.scores[name]
        judged_p = np.isfinite(ours)
        off = np.abs(ours[judged_p] - theirs[judged_p]).max(initial=0.0)
        if not off <= 1e-3 * (1 + np.abs(ours[judged_p]).max(initial=0.0)):
            raise RuntimeError(f"the policy engine's score of {name} differs by {off:g} from the discovery's")


def _report(  # noqa: PLR0917
    config: DiscoverConfig,
    prompts: Sequence[Prompt],
    val: Sequence[Prompt],
    tried: Sequence[_Tried],
    best: _Tried,
    verdicts: Verdicts,
) -> Report:
    positive_p = np.array([prompt.is_positive for prompt in val])
    hard_p = np.array([not prompt.is_positive and prompt.source in config.hard for prompt in val])
    counts = Counter(f"{'val' if p.is_val else 'train'} {'positive' if p.is_positive else 'negative'}" for p in prompts)
    return Report(
        hook_point=str(best.detectors.hook_point),
        sae=best.detectors.sae,
        when=best.choice.when,
        rules={choice.when: choice.recall for choice in best.rules},
        auroc={one.detectors.sae: one.auroc for one in tried},
        unseen_sources={one.detectors.sae: one.detectors.unseen_sources for one in tried},
        l2=best.detectors.l2,
        prompts=dict(sorted(counts.items())),
        recall=float(verdicts.flagged_p[positive_p].mean()),
        policy=false_alarms(verdicts.flagged_p[~positive_p], config.confidence),
        detectors={name: false_alarms(fired[~positive_p], config.confidence) for name, fired in verdicts.fired.items()},
        negatives_by_source=alarms_by_source(val, verdicts.flagged_p, config.confidence),
        recall_by_source=recall_by_source(val, verdicts.flagged_p),
        hard=false_alarms(verdicts.flagged_p[hard_p], config.confidence) if hard_p.any() else None,
        settings={
            "keep": list(config.keep),
            "cap": list(config.cap),
            "hard": list(config.hard),
            "seed": config.seed,
            "window": config.window,
            "min_tokens": config.min_tokens,
            "probe_latents": config.probe_latents,
            "single_latents": config.single_latents,
            "prompts_by_source": dict(sorted(Counter(prompt.source for prompt in prompts).items())),
        },
        data_sha256=data_hash(data_files(config)),
    )


def _line(one: _Tried) -> str:
    areas = ", ".join(f"{name} {area:.3f}" for name, area in one.auroc.items())
    unseen = ", ".join(f"{name} {area:.3f}" for name, area in one.detectors.unseen_sources.items())
    return (
        f"{one.detectors.hook_point}: val AUROC {areas}; on unseen sources {unseen}; "
        f"best rule {one.choice.when!r} with recall {one.choice.recall:.1%}"
    )
