"""`featurewatch sae eval`: how good a dictionary is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from monitor.cli.common import console, resolve_model
from monitor.cli.printable import printable_line
from monitor.cli.sae_source import (
    SOURCE_HELP,
    HookPointOption,
    KOption,
    ModelOption,
    NormOption,
    hints_from,
    read_source,
)
from monitor.errors import FeaturewatchError
from monitor.sae import Hints
from training.evaluation.config import EvalConfig
from training.options import default_of, help_of

if TYPE_CHECKING:
    from training.evaluation.report import EvalReport
    from training.evaluation.subject import Subject


def _option(name: str, *flags: str) -> Any:
    empty = _default(name) in ((), "", None)
    return typer.Option(*flags, help=help_of(EvalConfig, name), show_default=not empty)


def _default(name: str) -> Any:
    return default_of(EvalConfig, name)


def evaluate_saes(  # noqa: PLR0917
    sae: Annotated[list[str], typer.Argument(help=f"{SOURCE_HELP} Several are compared.")],
    model: Annotated[str, _option("model")] = _default("model"),
    data: Annotated[list[Path] | None, _option("data")] = None,
    cache: Annotated[Path | None, _option("cache")] = None,
    probe: Annotated[list[Path] | None, _option("probes", "--probe")] = None,
    out: Annotated[Path, _option("out")] = _default("out"),  # noqa: B008 – immutable
    replace: Annotated[bool, _option("replace")] = _default("replace"),
    tokens: Annotated[int, _option("tokens")] = _default("tokens"),
    loss_tokens: Annotated[int, _option("loss_tokens")] = _default("loss_tokens"),
    context: Annotated[int, _option("context")] = _default("context"),
    chat_share: Annotated[float, _option("chat_share")] = _default("chat_share"),
    heldout_share: Annotated[float, _option("heldout_share")] = _default("heldout_share"),
    document_field: Annotated[str, _option("document_field")] = _default("document_field"),
    text_field: Annotated[str, _option("text_field")] = _default("text_field"),
    outlier_factor: Annotated[float, _option("outlier_factor")] = _default("outlier_factor"),
    batch_tokens: Annotated[int, _option("batch_tokens")] = _default("batch_tokens"),
    probe_k: Annotated[list[int] | None, _option("ks", "--probe-k")] = None,
    pooling: Annotated[str, _option("pooling")] = _default("pooling"),
    selection: Annotated[str, _option("selection")] = _default("selection"),
    probe_texts: Annotated[int, _option("probe_texts")] = _default("probe_texts"),
    probe_form: Annotated[str, _option("probe_form")] = _default("probe_form"),
    dtype: Annotated[str, _option("dtype")] = _default("dtype"),
    seed: Annotated[int, _option("seed")] = _default("seed"),
    other_model: Annotated[bool, _option("other_model")] = _default("other_model"),
    hook_point: HookPointOption = None,
    model_name: ModelOption = None,
    k: KOption = None,
    norm_factor: NormOption = None,
    zoo: Annotated[list[Path] | None, typer.Option(help="Folder to search for SAE ids.")] = None,
) -> None:
    """Measure SAEs on text: sparsity, reconstruction, what the model loses with them spliced in, latents, probes."""
    config = EvalConfig(
        data=tuple(data or ()),
        cache=cache,
        probes=tuple(probe or ()),
        out=out,
        replace=replace,
        tokens=tokens,
        loss_tokens=loss_tokens,
        context=context,
        chat_share=chat_share,
        heldout_share=heldout_share,
        document_field=document_field,
        text_field=text_field,
        outlier_factor=outlier_factor,
        batch_tokens=batch_tokens,
        ks=tuple(probe_k) if probe_k else _default("ks"),
        pooling=pooling,
        selection=selection,
        probe_texts=probe_texts,
        probe_form=probe_form,
        dtype=dtype,
        seed=seed,
        other_model=other_model,
    )
    from training.evaluation.output import require_free, write_evaluation
    from training.evaluation.run import evaluate

    require_free(out, replace=replace)
    hints = hints_from(hook_point, model_name, k, norm_factor)
    subjects = [_subject(name, hints, zoo) for name in sae]
    typed = model or _named_model(subjects)
    given = {"hook-point": hook_point, "model-name": model_name, "k": k, "norm-factor": norm_factor}
    options = [(f"--{name}", str(value)) for name, value in given.items() if value is not None]
    options += [("--zoo", str(folder)) for folder in zoo or ()]
    report = evaluate(dataclasses.replace(config, model=resolve_model(typed)), subjects, typed, options)
    write_evaluation(report, out)
    _show(report)
    console.print(f"Written to {out / 'eval.json'} and {out / 'eval.html'}.", soft_wrap=True, highlight=False)


def _subject(name: str, hints: Hints, zoo: list[Path] | None) -> Subject:
    from training.evaluation.subject import with_card

    dictionary, folder = read_source(name, hints, zoo)
    return with_card(name, dictionary, folder)


def _named_model(subjects: list[Subject]) -> str:
    """The model that the SAEs name, if it is here: an SAE may come from anywhere, and its file starts no download."""
    from training.harvest.model_config import ModelConfig

    named = next((subject.dictionary.model for subject in subjects if subject.dictionary.model), "")
    try:
        found = resolve_model(named)
        if is_here := Path(found).is_dir():
            ModelConfig.read(found)
    except FeaturewatchError as error:
        raise FeaturewatchError(
            f"SAE {subjects[0].name} of model {named!r}",
            f"no model is found under that name ({error.rule})",
            "name the model's folder or Hugging Face id with --model",
        ) from error
    if not is_here:
        raise FeaturewatchError(
            f"SAE {subjects[0].name} of model {named!r}",
            "there is no such folder, and a name in an SAE's files starts no download",
            "name the model's folder or Hugging Face id with --model",
        )
    return named


def _show(report: EvalReport) -> None:
    from training.evaluation.summary import summary_rows

    # Names and models may come from anywhere: they are neither markup nor a message to the terminal.
    table = Table("figure")
    for sae in report.saes:
        table.add_column(Text(printable_line(sae.name)))
    for name, values in summary_rows(report):
        table.add_row(Text(printable_line(name)), *(Text(printable_line(value)) for value in values))
    console.print(table)
    for sae in report.saes:
        for note in sae.notes:
            console.print(Text(printable_line(f"{sae.name}: {note}")))
