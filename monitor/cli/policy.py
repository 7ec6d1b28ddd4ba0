"""`featurewatch policy`: check policy files, print the schema that editors use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from monitor.cli.common import console, default_zoo, err_console, resolve_model
from monitor.cli.model_shape import ModelShape, read_model_shape
from monitor.cli.problems import print_problems
from monitor.policy import Policy, check_policy
from monitor.policy.json_schema import json_schema
from monitor.policy.schema.detector import Calibration, Detector
from monitor.sae import Catalog
from monitor.sidecar.policy_files import policy_files, read_policies
from monitor.sidecar.sources import CatalogSources

app = typer.Typer(help="Check policy files.", no_args_is_help=True)


@app.callback()
def _policy() -> None:
    """Check policy files."""


@app.command("check")
def check(
    paths: Annotated[
        list[Path], typer.Argument(metavar="DIR|FILE", help="Policy files, or folders of them.", show_default=False)
    ],
    zoo: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Folder with SAEs; may be repeated.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Also check hook points and widths for this model.", show_default=False),
    ] = None,
) -> None:
    """Read policies as the sidecar would and name everything that is wrong with them.

    Exit code 0: all are good. 2: at least one has a problem.
    """
    shape = read_model_shape(resolve_model(model)) if model else ModelShape()
    catalog = Catalog(zoo or default_zoo())
    files = policy_files(paths)
    policies, problems = read_policies(files)
    for policy in policies:
        sources = CatalogSources(catalog, Path(policy.file).parent)
        problems += check_policy(policy, sources, num_layers=shape.num_layers, width=shape.width, model=shape.name)
    bad_files = {problem.file for problem in problems}
    for policy in policies:
        if policy.file not in bad_files:
            _show(policy)
    print_problems(problems)
    if problems:
        err_console.print(f"problems: {len(problems)}, in {len(bad_files)} of {len(files)} files", highlight=False)
        raise typer.Exit(2)


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of policy files, for editors that complete and check YAML."""
    typer.echo(json.dumps(json_schema(), indent=2))


def _show(policy: Policy) -> None:
    spec = policy.document.spec
    console.print(
        f"[bold green]ok[/bold green] [bold]{policy.name}[/bold] revision {policy.revision}, "
        f"mode [bold]{policy.mode.name.lower()}[/bold], sha256 {policy.sha256[:12]}  {escape(policy.file)}",
        soft_wrap=True,
        highlight=False,
    )
    detectors = Table("detector", "source", "aggregate", "warn / fire / clear", "calibration", box=None, pad_edge=True)
    for detector in spec.detectors:
        calibration = _calibration(detector.calibration)
        detectors.add_row(detector.id, _source(detector), _aggregate(detector), _threshold(detector), calibration)
    rules = Table("rule", "when", "for", "severity", "actions", box=None, pad_edge=True)
    for rule in spec.rules:
        rules.add_row(rule.id, escape(rule.when), rule.hold, rule.severity, ", ".join(rule.actions))
    console.print(detectors, rules)


def _source(detector: Detector) -> str:
    source = detector.source
    if source.sae_latents:
        count = len(source.sae_latents.latents)
        return escape(f"{count} latent{'s' * (count > 1)} of {source.sae_latents.sae}, {source.sae_latents.combine}")
    if source.sae_probe:
        return escape(f"SAE probe {source.sae_probe.file}")
    return escape(f"dense probe {source.dense_probe.file}") if source.dense_probe else ""


def _aggregate(detector: Detector) -> str:
    aggregate = detector.aggregate
    length = {"ema": f" half-life {aggregate.half_life:g}" if aggregate.half_life else ""}
    length["rolling_mean"] = f" over {aggregate.window}"
    return f"{aggregate.kind}{length.get(aggregate.kind, '')}{', then max' if aggregate.then else ''}"


def _threshold(detector: Detector) -> str:
    threshold = detector.threshold
    levels = (threshold.warn, threshold.fire, threshold.clear)
    return " / ".join(f"{threshold.fire if level is None else level:g}" for level in levels)


def _calibration(calibration: Calibration | None) -> str:
    if calibration is None:
        return "none stated"
    return f"target {100 * calibration.target_fpr:g} %: {calibration.hits} of {calibration.n} benign fired"
