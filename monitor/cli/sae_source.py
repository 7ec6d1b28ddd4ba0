"""Options and look-up that the commands on SAEs share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from monitor.cli.common import default_zoo
from monitor.sae import Catalog, Dictionary, Hints, HookPoint, load_dictionary
from monitor.sae.formats.hub import PREFIX

SOURCE_HELP = (
    "A folder or weights file of any known family, hf:owner/repository/path@revision, or an SAE id from the zoo."
)
HookPointOption = Annotated[
    str | None, typer.Option(metavar="POINT", help="Where it was trained, if its files do not say: resid_post.14.")
]
ModelOption = Annotated[
    str | None, typer.Option("--model-name", metavar="MODEL", help="On what it was trained, if its files do not say.")
]
KOption = Annotated[int | None, typer.Option("--k", help="Latents per token of a topk SAE, if its files do not say.")]
NormOption = Annotated[
    float | None,
    typer.Option("--norm-factor", help="What activations were multiplied with in training, if its files do not say."),
]


def hints_from(hook_point: str | None, model: str | None, k: int | None, norm_factor: float | None) -> Hints:
    """The options as hints; raises FeaturewatchError for a hook point that is none."""
    return Hints(HookPoint.parse(hook_point) if hook_point is not None else None, model, k, norm_factor)


def read_source(source: str, hints: Hints, zoo: Sequence[Path] | None) -> tuple[Dictionary, Path | None]:
    """The SAE, and its folder if it lies in one here; raises FeaturewatchError when there is none."""
    if source.startswith(PREFIX):
        return load_dictionary(source, hints), None
    path = Path(source)
    if not path.exists():
        path = Catalog(zoo or default_zoo()).path(source)
    return load_dictionary(path, hints), path if path.is_dir() else None
