"""`featurewatch policy check`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monitor.cli.common import default_zoo, resolve_model
from monitor.cli.model_shape import ModelShape, read_model_shape
from monitor.cli.problems import print_advice, print_problems

if TYPE_CHECKING:
    from monitor.policy import Policy, Problem


def check(
    paths: Annotated[
        list[Path], typer.Argument(metavar="DIR|FILE", help="Policy files, or folders of them.", show_default=False)
    ],
    zoo: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Folder with SAEs; may be repeated.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Also check hook points and widths for this model: its folder or alias.",
            show_default=False,
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where there is advice.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print problems and advice as one JSON object.")] = False,
) -> None:
    """Read policies as the sidecar would, name everything that is wrong with them, and give advice on the others.

    Exit code 0: all are good, whatever the advice. 1: there is advice, with --strict. 2: at least one has a problem.
    """
    from monitor.cli.policy.summary import show_policy
    from monitor.policy import check_policy
    from monitor.policy.advice import advice
    from monitor.sae import Catalog
    from monitor.sidecar.policy_files import policy_files, read_policies
    from monitor.sidecar.sources import CatalogSources

    shape = read_model_shape(resolve_model(model)) if model else ModelShape()
    catalog = Catalog(zoo or default_zoo())
    files = policy_files(paths)
    policies, problems = read_policies(files)
    for policy in policies:
        sources = CatalogSources(catalog, Path(policy.file).parent)
        problems += check_policy(policy, sources, num_layers=shape.num_layers, width=shape.width, model=shape.name)
    bad_files = {problem.file for problem in problems}
    good = [policy for policy in policies if policy.file not in bad_files]
    remarks = [remark for policy in policies for remark in advice(policy, _today())]
    if as_json:
        _print_json(good, problems, remarks)
    else:
        for policy in good:
            show_policy(policy)
        print_advice(remarks)
        if problems:
            print_problems(problems, f", in {len(bad_files)} of {len(files)} files")
    if problems:
        raise typer.Exit(2)
    if remarks and strict:
        raise typer.Exit(1)


def _print_json(good: Sequence[Policy], problems: Sequence[Problem], remarks: Sequence[Problem]) -> None:
    found = {
        "good": [{"file": one.file, "name": one.name, "revision": one.revision, "sha256": one.sha256} for one in good],
        "problems": [asdict(problem) for problem in problems],
        "advice": [asdict(remark) for remark in remarks],
    }
    typer.echo(json.dumps(found, indent=2, ensure_ascii=True))


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
