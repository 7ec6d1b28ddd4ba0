"""`featurewatch policy calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def calibrate(  # noqa: PLR0917 - one parameter per command-line option
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="Policy file.", show_default=False)],
    model: Annotated[
        str, typer.Option(help="Chat model that computes the texts: alias, Hugging Face folder or id.")
    ] = "",
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Labelled texts, .jsonl[.gz]: text (or prompt), label 0 or 1, perhaps response, source, category, "
            "split. May be repeated.",
            show_default=False,
        ),
    ] = None,
    benign: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Benign texts without labels.", show_default=False)
    ] = None,
    harmful: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Harmful texts without labels.", show_default=False)
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead of texts: recorded traffic, the store of a sidecar that ran with --keep-share.",
            show_default=False,
        ),
    ] = None,
    keep_share: Annotated[
        float | None,
        typer.Option(
            help="With --records: the share of traffic that the sidecar kept; 1: everything.", show_default=False
        ),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="With --records: which generations were harmful, .jsonl: id, label 0 or 1, perhaps source, category. "
            "May be repeated.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(help="vllm: with tap and sidecar, as in production. hf: Hugging Face, quicker on a CPU."),
    ] = "vllm",
    dtype: Annotated[str, typer.Option(help="Of the engine. Default: what the policy was fitted on.")] = "",
    context: Annotated[int, typer.Option(min=8, help="Texts of more tokens are left out.")] = 1024,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="With vllm: tokens that the model answers; 1 computes the prompt alone.")
    ] = 1,
    engine_args: Annotated[
        str, typer.Option(metavar="JSON", help="With vllm: further arguments of vllm.LLM.", show_default=False)
    ] = "",
    target_fpr: Annotated[
        float | None,
        typer.Option(
            help="Share of benign generations that may be flagged. Default: 0.01; with --check that of the calibration "
            "in --baseline, or what the policy states.",
            show_default=False,
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of bounds and intervals.")] = 0.95,
    empirical: Annotated[
        bool, typer.Option("--empirical", help="Let the rate in the sample meet the target, not its upper bound.")
    ] = False,
    target: Annotated[
        str, typer.Option(help="policy: the target is for the whole policy. detector: for each detector by itself.")
    ] = "policy",
    warn_fpr: Annotated[
        float | None,
        typer.Option(help="Share of benign generations that may reach warn. Default: 5 times the target."),
    ] = None,
    split: Annotated[str, typer.Option(help="Only rows with this split, e.g. val.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many texts of each label; 0: all.")] = 0,
    holdout_share: Annotated[
        float, typer.Option(help="Keep this share back, and report on it what thresholds from the rest come to.")
    ] = 0.0,
    holdout_source: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Keep this source back instead; may be repeated.", show_default=False),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Fit nothing: say whether the stated calibration still holds. Exit code 0, 10, 11 or 12."
        ),
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --check: the --json of an earlier run.", show_default=False),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write/--dry-run", help="Write thresholds and calibration into the policy file.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write calibration.html and .json there.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")] = False,
    zoo: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Folder with SAEs; may be repeated.", show_default=False)
    ] = None,
) -> None:
    """Set a policy's thresholds for a promised rate of false alarms, or check those it has.

    Judges benign (and labelled harmful) texts or recorded traffic as in production, and finds the thresholds at which
    at most --target-fpr of benign generations are flagged, with --confidence. Shows the change to the file; --write
    makes it.

    Exit code 0: done, or PASS. 2: bad input. 10: STALE. 11: DEGRADED. 12: INCONCLUSIVE, too few samples.
    """
    from monitor.cli.calibration.command import run
    from monitor.cli.calibration.request import Request

    run(
        Request(
            policy=policy,
            zoo=tuple(zoo or ()),
            model=model,
            data=tuple(data or ()),
            benign=tuple(benign or ()),
            harmful=tuple(harmful or ()),
            records=records,
            keep_share=keep_share,
            labels=tuple(labels or ()),
            engine=engine,
            dtype=dtype,
            context=context,
            max_tokens=max_tokens,
            engine_args=engine_args,
            target=target_fpr,
            confidence=confidence,
            empirical=empirical,
            scope=target,
            warn_share=warn_fpr,
            split=split,
            limit=limit,
            holdout_share=holdout_share,
            holdout_sources=tuple(holdout_source or ()),
            check=check,
            baseline=baseline,
            write=write,
            report=report,
            as_json=as_json,
        )
    )
