"""`featurewatch train`: SAEs from text, in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from monitor.cli.common import err_console, home, resolve_model
from training.harvest.config import HarvestConfig
from training.options import default_of, help_of
from training.output_config import OutputConfig
from training.trainer.config import TrainConfig


def _option(config: type, name: str, *flags: str) -> Any:
    return typer.Option(*flags, help=help_of(config, name), show_default=default_of(config, name) not in ((), ""))


def train(  # noqa: PLR0917
    model: Annotated[str, typer.Argument(help=help_of(HarvestConfig, "model"))],
    data: Annotated[list[Path], _option(HarvestConfig, "data")],
    hook_point: Annotated[list[str], _option(HarvestConfig, "hook_points", "--hook-point")],
    out: Annotated[Path, _option(OutputConfig, "out")],
    name: Annotated[str, _option(OutputConfig, "name")] = default_of(OutputConfig, "name"),
    cache: Annotated[
        Path | None, typer.Option(help=f"{help_of(HarvestConfig, 'cache')} An interrupted harvest goes on from it.")
    ] = None,
    tokens: Annotated[int, _option(HarvestConfig, "tokens")] = default_of(HarvestConfig, "tokens"),
    context: Annotated[int, _option(HarvestConfig, "context")] = default_of(HarvestConfig, "context"),
    batch_tokens: Annotated[int, _option(HarvestConfig, "batch_tokens")] = default_of(HarvestConfig, "batch_tokens"),
    chat_share: Annotated[float, _option(HarvestConfig, "chat_share")] = default_of(HarvestConfig, "chat_share"),
    prompt_tokens: Annotated[int, _option(HarvestConfig, "prompt_tokens")] = default_of(HarvestConfig, "prompt_tokens"),
    windows_per_document: Annotated[int, _option(HarvestConfig, "windows_per_document")] = default_of(
        HarvestConfig, "windows_per_document"
    ),
    outlier_factor: Annotated[float, _option(HarvestConfig, "outlier_factor")] = default_of(
        HarvestConfig, "outlier_factor"
    ),
    document_field: Annotated[str, _option(HarvestConfig, "document_field")] = default_of(
        HarvestConfig, "document_field"
    ),
    heldout_share: Annotated[float, _option(HarvestConfig, "heldout_share")] = default_of(
        HarvestConfig, "heldout_share"
    ),
    heldout_tokens: Annotated[int, _option(HarvestConfig, "heldout_tokens")] = default_of(
        HarvestConfig, "heldout_tokens"
    ),
    text_field: Annotated[str, _option(HarvestConfig, "text_field")] = default_of(HarvestConfig, "text_field"),
    dtype: Annotated[str, _option(HarvestConfig, "dtype")] = default_of(HarvestConfig, "dtype"),
    store_dtype: Annotated[str, _option(HarvestConfig, "store_dtype")] = default_of(HarvestConfig, "store_dtype"),
    shard_rows: Annotated[int, _option(HarvestConfig, "shard_rows")] = default_of(HarvestConfig, "shard_rows"),
    expansion: Annotated[int, _option(TrainConfig, "expansion")] = default_of(TrainConfig, "expansion"),
    k: Annotated[int, _option(TrainConfig, "k", "-k", "--k")] = default_of(TrainConfig, "k"),
    epochs: Annotated[float, _option(TrainConfig, "epochs")] = default_of(TrainConfig, "epochs"),
    batch_rows: Annotated[int, _option(TrainConfig, "batch_rows")] = default_of(TrainConfig, "batch_rows"),
    learning_rate: Annotated[float, _option(TrainConfig, "learning_rate")] = default_of(TrainConfig, "learning_rate"),
    warm_up: Annotated[float, _option(TrainConfig, "warm_up")] = default_of(TrainConfig, "warm_up"),
    decay: Annotated[float, _option(TrainConfig, "decay")] = default_of(TrainConfig, "decay"),
    clip: Annotated[float, _option(TrainConfig, "clip")] = default_of(TrainConfig, "clip"),
    aux_weight: Annotated[float, _option(TrainConfig, "aux_weight")] = default_of(TrainConfig, "aux_weight"),
    dead_share: Annotated[float, _option(TrainConfig, "dead_share")] = default_of(TrainConfig, "dead_share"),
    threshold_tolerance: Annotated[float, _option(TrainConfig, "threshold_tolerance")] = default_of(
        TrainConfig, "threshold_tolerance"
    ),
    weights_dtype: Annotated[str, _option(OutputConfig, "dtype")] = default_of(OutputConfig, "dtype"),
    card_tokens: Annotated[int, _option(OutputConfig, "card_tokens")] = default_of(OutputConfig, "card_tokens"),
    loss_tokens: Annotated[int, _option(OutputConfig, "loss_tokens")] = default_of(OutputConfig, "loss_tokens"),
    seed: Annotated[int, _option(HarvestConfig, "seed")] = default_of(HarvestConfig, "seed"),
    replace: Annotated[bool, _option(OutputConfig, "replace")] = default_of(OutputConfig, "replace"),
) -> None:
    """Train sparse autoencoders at one or more hook points of MODEL, with one pass of the model for all."""
    from training.run import train_saes

    folder = resolve_model(model)
    short_name = name or Path(folder).name
    harvest_config = HarvestConfig(
        model=folder,
        data=tuple(data),
        hook_points=tuple(hook_point),
        cache=cache or home() / "activations" / short_name,
        tokens=tokens,
        context=context,
        batch_tokens=batch_tokens,
        chat_share=chat_share,
        prompt_tokens=prompt_tokens,
        windows_per_document=windows_per_document,
        outlier_factor=outlier_factor,
        document_field=document_field,
        heldout_share=heldout_share,
        heldout_tokens=heldout_tokens,
        text_field=text_field,
        dtype=dtype,
        store_dtype=store_dtype,
        shard_rows=shard_rows,
        seed=seed,
    )
    train_config = TrainConfig(
        expansion=expansion,
        k=k,
        epochs=epochs,
        batch_rows=batch_rows,
        learning_rate=learning_rate,
        warm_up=warm_up,
        decay=decay,
        clip=clip,
        aux_weight=aux_weight,
        dead_share=dead_share,
        threshold_tolerance=threshold_tolerance,
        seed=seed,
    )
    output = OutputConfig(
        out=out,
        name=short_name,
        dtype=weights_dtype,
        replace=replace,
        card_tokens=card_tokens,
        loss_tokens=loss_tokens,
    )
    train_saes(harvest_config, train_config, output, err_console, model_as_typed=model)
