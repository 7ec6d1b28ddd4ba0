"""`featurewatch policy calibrate`, step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.markup import escape

from monitor.calibration.baseline import Baseline, stated_in, stated_in_report
from monitor.calibration.fit import TooFewSamplesError
from monitor.calibration.generation import Generation
from monitor.calibration.holdout import split
from monitor.calibration.report import Data, Report, Verdict
from monitor.calibration.run import Origin, calibrate, check_calibration, stated_target
from monitor.calibration.settings import Settings
from monitor.calibration.too_few import too_few_json
from monitor.cli.calibration.computed import Computed
from monitor.cli.calibration.request import Request
from monitor.cli.calibration.subject import Subject, read_subject
from monitor.cli.calibration.tables import about_data, show
from monitor.cli.calibration.writing import change_of, difference, new_text, write_policy
from monitor.cli.common import console, default_zoo, err_console, resolve_model
from monitor.cli.problems import print_problems
from monitor.errors import FeaturewatchError
from monitor.policy import PolicyError, fit_mismatch

_TARGET = 0.01


@dataclass(frozen=True)
class _Prepared:
    """What a calibration and a check begin with."""

    settings: Settings
    baseline: Baseline
    generations: list[Generation]
    origin: Origin


def run(request: Request) -> None:
    """Ends with the exit code that the result has."""
    try:
        subject = read_subject(request.policy, request.zoo or tuple(default_zoo()))
        prepared = _prepare(request, subject)
    except PolicyError as error:
        print_problems(error.problems)
        raise typer.Exit(2) from error
    try:
        report = _report(request, subject, prepared)
    except TooFewSamplesError as error:
        _show_too_few(request, subject, prepared.origin, error)
        raise typer.Exit(Verdict.INCONCLUSIVE.value) from error
    _show(request, subject, report)
    if report.verdict is not None:
        raise typer.Exit(report.verdict.value)


def _prepare(request: Request, subject: Subject) -> _Prepared:
    baseline = _baseline(request, subject)
    wants_stated = request.check and request.target is None
    target, note = stated_target(subject.policy, baseline) if wants_stated else (_TARGET, "")
    settings = request.settings(target)
    computed, data = _generations(request, subject)
    notes = (*computed.notes, note) if note else computed.notes
    origin = Origin(computed.engine, computed.serving, data, notes, datetime.now(UTC).date().isoformat())
    return _Prepared(settings, baseline, computed.generations, origin)


def _report(request: Request, subject: Subject, prepared: _Prepared) -> Report:
    policy, origin = subject.policy, prepared.origin
    if not request.check:
        parts = split(prepared.generations, request.holdout_share, request.holdout_sources)
        return calibrate(policy, parts, prepared.settings, origin)
    # What the engine does not tell of itself cannot be compared.
    differing = [line for line in fit_mismatch(policy, origin.serving) if line.partition(":")[0] in origin.serving]
    mismatches = [*subject.mismatches, *differing]
    return check_calibration(policy, prepared.generations, prepared.settings, origin, mismatches, prepared.baseline)


def _generations(request: Request, subject: Subject) -> tuple[Computed, Data]:
    if request.records is not None and request.keep_share is not None:
        from monitor.cli.calibration.traffic import run_records

        return run_records(subject, request.records, request.keep_share, request.labels)
    from monitor.cli.calibration.responses import without_responses
    from monitor.cli.calibration.texts import read_texts

    texts = read_texts(request.data, request.benign, request.harmful, split=request.split, limit=request.limit)
    if texts.benign is None:
        raise FeaturewatchError(
            "texts without any benign one", "a rate of false alarms is measured on benign texts", "give --benign FILE"
        )
    notes = [*texts.notes, *without_responses(request, subject.policy, texts.samples)]
    model = resolve_model(request.model)
    dtype = request.dtype or subject.policy.document.spec.fitted_on.dtype
    if request.engine == "hf":
        from monitor.cli.calibration.huggingface import run_huggingface

        computed = run_huggingface(subject, texts.samples, model, dtype=dtype or "float32", context=request.context)
    else:
        from monitor.cli.calibration.vllm_engine import run_vllm
        from training.harvest.engine_start import parse_engine_args

        computed = run_vllm(
            subject,
            texts.samples,
            model,
            dtype=dtype or "auto",
            context=request.context,
            max_tokens=request.max_tokens,
            engine_args=parse_engine_args(request.engine_args),
            zoo=request.zoo or tuple(default_zoo()),
        )
    computed = replace(computed, notes=(*computed.notes, *notes))
    return computed, Data(texts.benign, texts.harmful, texts.left_out | computed.left_out)


def _baseline(request: Request, subject: Subject) -> Baseline:
    if request.baseline is None:
        return stated_in(subject.policy)
    try:
        text = request.baseline.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FeaturewatchError(
            f"baseline {request.baseline}", "it must be a text file in UTF-8", "give the --json of an earlier run"
        ) from error
    return stated_in_report(text, str(request.baseline), subject.policy)


def _show_too_few(request: Request, subject: Subject, origin: Origin, error: TooFewSamplesError) -> None:
    if request.as_json:
        typer.echo(too_few_json(subject.policy, error, origin), nl=False)
    for line in about_data(origin.data, origin.notes):
        err_console.print(line, highlight=False, soft_wrap=True)
    told = escape(str(error))
    err_console.print(f"[bold yellow]INCONCLUSIVE[/bold yellow] {told}", soft_wrap=True, highlight=False)


def _show(request: Request, subject: Subject, report: Report) -> None:
    if request.as_json:
        typer.echo(report.json(), nl=False)
    else:
        show(report, console)
    if request.report is not None:
        _write_report(request.report, report)
    if report.fitted is None:
        return
    text = new_text(subject.policy, change_of(report, subject.stated_of_sources()))
    if request.write:
        write_policy(subject.policy, text)
    if not request.as_json:
        console.print(difference(subject.policy, text), markup=False, highlight=False, soft_wrap=True)
        done = "written" if request.write else "not written: add --write"
        console.print(f"{request.policy}: {done}", highlight=False, soft_wrap=True)


def _write_report(folder: Path, report: Report) -> None:
    from monitor.cli.calibration.page import page

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"calibration.json": report.json(), "calibration.html": page(report)}.items():
        part = folder / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)
    err_console.print(f"report: {folder / 'calibration.html'}", highlight=False, soft_wrap=True)
