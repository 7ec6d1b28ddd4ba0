"""`featurewatch discover`: a policy from labelled prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from monitor.cli.common import console, default_zoo, err_console, resolve_model
from monitor.sae import Catalog
from training.discovery.config import DiscoverConfig
from training.options import default_of, help_of

if TYPE_CHECKING:
    from training.discovery.report import Report


def _option(name: str, *flags: str) -> Any:
    empty = default_of(DiscoverConfig, name) in ((), "", None)
    return typer.Option(*flags, help=help_of(DiscoverConfig, name), show_default=not empty)


def _default(name: str) -> Any:
    return default_of(DiscoverConfig, name)


def discover(  # noqa: PLR0917
    model: Annotated[str, typer.Argument(help=help_of(DiscoverConfig, "model"))],
    sae: Annotated[list[str], _option("saes", "--sae")],
    policy_out: Annotated[Path, _option("policy_out")],
    data: Annotated[list[Path] | None, _option("data")] = None,
    positive: Annotated[Path | None, _option("positive")] = None,
    negative: Annotated[Path | None, _option("negative")] = None,
    subject: Annotated[str, _option("subject")] = _default("subject"),
    keep: Annotated[list[str] | None, _option("keep")] = None,
    cap: Annotated[list[str] | None, _option("cap")] = None,
    hard: Annotated[list[str] | None, _option("hard")] = None,
    zoo: Annotated[list[Path] | None, typer.Option(help="Folder to search for SAE ids.")] = None,
    owner: Annotated[str, _option("owner")] = _default("owner"),
    force: Annotated[bool, _option("force", "--force")] = _default("force"),
    cache: Annotated[Path | None, _option("cache")] = None,
    window: Annotated[int, _option("window")] = _default("window"),
    min_tokens: Annotated[int, _option("min_tokens")] = _default("min_tokens"),
    target_fpr: Annotated[float, _option("target_fpr")] = _default("target_fpr"),
    warn_fpr: Annotated[float, _option("warn_fpr")] = _default("warn_fpr"),
    confidence: Annotated[float, _option("confidence")] = _default("confidence"),
    probe_latents: Annotated[int, _option("probe_latents")] = _default("probe_latents"),
    single_latents: Annotated[int, _option("single_latents")] = _default("single_latents"),
    seed: Annotated[int, _option("seed")] = _default("seed"),
) -> None:
    """Find the latents and fit the probes that tell two sets of prompts apart, and write a calibrated policy."""
    from training.discovery.run import discover_policy

    config = DiscoverConfig(
        model=resolve_model(model),
        saes=tuple(sae),
        data=tuple(data or ()),
        positive=positive,
        negative=negative,
        subject=subject,
        keep=tuple(keep or ()),
        cap=tuple(cap or ()),
        hard=tuple(hard or ()),
        policy_out=policy_out,
        owner=owner,
        force=force,
        cache=cache,
        window=window,
        min_tokens=min_tokens,
        target_fpr=target_fpr,
        warn_fpr=warn_fpr,
        confidence=confidence,
        probe_latents=probe_latents,
        single_latents=single_latents,
        seed=seed,
    )
    report = discover_policy(config, Catalog(zoo or default_zoo()), err_console)
    _show(report, config)


def _show(report: Report, config: DiscoverConfig) -> None:
    from training.discovery.statistics import area_text

    # Ids differ in their last part, which an ellipsis would take away.
    areas = Table(Column("SAE", overflow="fold"), "detector", "AUROC on val", "on unseen sources")
    for point, by_detector in report.auroc.items():
        for name, area in by_detector.items():
            unseen = report.unseen_sources[point].get(name)
            areas.add_row(point, name, f"{area:.3f}", "" if unseen is None else area_text(unseen))
    console.print(areas)
    alarms = Table("val negatives", "n", "flagged", "rate", f"at most ({config.confidence:.0%})")
    rows = {"whole policy": report.policy, **({"hard ones": report.hard} if report.hard else {})}
    for name, found in {**rows, **report.negatives_by_source}.items():
        alarms.add_row(name, f"{found.n:,}", str(found.hits), f"{found.rate:.2%}", f"{found.upper:.2%}")
    console.print(alarms)
    recall = Table("val positives", "n", "found", "recall")
    for name, (n, hits) in report.recall_by_source.items():
        recall.add_row(name, f"{n:,}", str(hits), f"{hits / n:.1%}")
    console.print(recall)
    if not report.is_shown:
        err_console.print(f"[yellow]warning:[/yellow] {report.too_few(config)}", highlight=False, soft_wrap=True)
    console.print(
        f"Rule [bold]{report.when}[/bold] at {report.hook_point}: recall {report.recall:.1%}. "
        f"Written to {config.policy_out}, in mode shadow.",
        soft_wrap=True,
        highlight=False,
    )
