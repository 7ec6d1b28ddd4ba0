"""One discovery: labelled prompts and SAEs in, a policy file with its probes out."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from monitor.policy import check_policy
from monitor.policy.binomial import shown_rate
from monitor.policy.problem import PolicyError
from monitor.sae import Catalog, require_watchable
from training.discovery.capture import PromptRows, capture
from training.discovery.config import DiscoverConfig
from training.discovery.judged import OneSae, Verdicts, judge
from training.discovery.policy_file import parsed, policy_text, report_file, save_probes, weight_files
from training.discovery.prompt import Prompt
from training.discovery.prompts import data_files, data_hash, load_prompts
from training.discovery.publish import draft_folder, next_revision, publish, require_place
from training.discovery.report import Report, alarms_by_source, recall_by_source
from training.discovery.rules import DETECTORS
from training.discovery.statistics import false_alarms
from training.discovery.tried import Tried, rows_of, try_sae
from training.harvest.model_config import ModelConfig

Floats = npt.NDArray[np.float32]


def discover_policy(config: DiscoverConfig, catalog: Catalog, console: Console) -> Report:
    """Captures the prompts once, fits at every SAE's hook point and writes the policy of the best.

    Raises:
        FeaturewatchError: unknown SAE, model, data; an SAE whose width does not fit the model; a folder that cannot be
            written. The files of an older policy of this name then stay as they are.
    """
    require_place(config.policy_out, force=config.force)
    dictionaries = {sae: catalog.load(sae) for sae in config.saes}
    model = ModelConfig.read(config.model)
    config = dataclasses.replace(config, context=min(config.context, model.positions or config.context))
    for sae, dictionary in dictionaries.items():
        require_watchable(sae, dictionary)
        dictionary.require_width(model.width, config.model)
        config.require_fits(sae, dictionary.num_latents)
    model.require_hook_points([dictionary.hook_point for dictionary in dictionaries.values()])
    prompts = load_prompts(config)
    points = sorted({dictionary.hook_point for dictionary in dictionaries.values()})
    rows = capture(config, points, prompts)
    return discover_from_rows(config, catalog, prompts, rows, console)


def discover_from_rows(
    config: DiscoverConfig, catalog: Catalog, prompts: Sequence[Prompt], rows: PromptRows, console: Console
) -> Report:
    """The same from captured rows; `rows` belong to `prompts` one to one."""
    tried = []
    for sae in config.saes:
        tried.append(try_sae(config, catalog, sae, prompts, rows))
        console.print(tried[-1].line, highlight=False)
    best = max(tried, key=lambda one: one.choice.recall)
    with draft_folder(config.policy_out) as draft:
        report = _write_checked(config, prompts, rows, tried, best, draft)
        files = [*weight_files(config).values(), report_file(config), config.policy_out.name]
        publish(draft, config.policy_out.parent, files)
    return report


def _write_checked(  # noqa: PLR0917
    config: DiscoverConfig,
    prompts: Sequence[Prompt],
    rows: PromptRows,
    tried: Sequence[Tried],
    best: Tried,
    draft: Path,
) -> Report:
    """Writes policy, probes and report into the draft folder, read back from there by the real engine."""
    is_val_p = np.array([prompt.is_val for prompt in prompts])
    val = [prompt for prompt in prompts if prompt.is_val]
    sources = OneSae(best.detectors.sae, best.detectors.dictionary, draft)
    save_probes(best.detectors, config, draft)
    val_rows_nd, val_starts = rows_of(rows, best.detectors.hook_point, is_val_p)
    policy = parsed(policy_text(best.detectors, best.choice, config), config)
    verdicts = judge(policy, sources, val_rows_nd, val_starts)
    _require_same(verdicts, best.scores)
    report = _report(config, prompts, val, tried, best, verdicts)
    allowed = int(best.choice.flagged_p[[not prompt.is_positive for prompt in val]].sum())
    if report.policy.hits > allowed:
        raise RuntimeError(f"the engine flags {report.policy.hits} of {report.policy.n} val negatives, not {allowed}")
    text = policy_text(
        best.detectors,
        best.choice,
        config,
        revision=next_revision(config.policy_out),
        description=report.description(config),
        calibration=_calibration(config, report, val, verdicts),
    )
    problems = check_policy(parsed(text, config), sources, width=best.detectors.dictionary.width, model=config.model)
    if problems:
        raise PolicyError(problems)
    (draft / config.policy_out.name).write_text(text, encoding="utf-8")
    (draft / report_file(config)).write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    return report


def _calibration(
    config: DiscoverConfig, report: Report, val: Sequence[Prompt], verdicts: Verdicts
) -> dict[str, dict[str, Any]]:
    """By detector, as the policy file has it."""
    names = ", ".join(path.name for path in data_files(config))
    positive_p = np.array([prompt.is_positive for prompt in val])
    return {
        name: {
            "targetFpr": shown_rate(counts.hits, counts.n, config.target_fpr, config.confidence),
            "confidence": config.confidence,
            "benign": f"{names} (val negatives)@sha256:{report.data_sha256}",
            "n": counts.n,
            "hits": counts.hits,
            "harmful": f"{names} (val positives)@sha256:{report.data_sha256}",
            "recall": round(float(verdicts.fired[name][positive_p].mean()), 4),
            "date": datetime.now(UTC).date().isoformat(),
        }
        for name, counts in report.detectors.items()
    }


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
    tried: Sequence[Tried],
    best: Tried,
    verdicts: Verdicts,
) -> Report:
    positive_p = np.array([prompt.is_positive for prompt in val])
    hard_p = np.array([not prompt.is_positive and prompt.source in config.hard for prompt in val])
    counts = Counter(f"{'val' if p.is_val else 'train'} {'positive' if p.is_positive else 'negative'}" for p in prompts)
    return Report(
        hook_point=str(best.detectors.hook_point),
        sae=best.detectors.sae,
        when=best.choice.when,
        is_shown=best.choice.is_shown,
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
