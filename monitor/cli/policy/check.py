"""`featurewatch policy check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monitor.cli.common import default_zoo, err_console, resolve_model
from monitor.cli.model_shape import ModelShape, read_model_shape
from monitor.cli.problems import print_problems


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
    from monitor.cli.policy.summary import show_policy
    from monitor.policy import check_policy
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
    for policy in policies:
        if policy.file not in bad_files:
            show_policy(policy)
    print_problems(problems)
    if problems:
        err_console.print(f"problems: {len(problems)}, in {len(bad_files)} of {len(files)} files", highlight=False)
        raise typer.Exit(2)
