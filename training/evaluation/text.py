"""The text of an evaluation as token sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monitor.errors import FeaturewatchError
from training.card.heldout import heldout_sequences
from training.evaluation.config import EvalConfig
from training.harvest.cache import ActivationCache
from training.harvest.config import HarvestConfig
from training.harvest.documents import read_documents, require_some, shuffled
from training.harvest.tokens import Reason, SequenceMaker, TokenSequence


def read_sequences(config: EvalConfig, tokenizer: Any, made_from: dict[str, str]) -> list[TokenSequence]:
    """About `config.tokens` positions, drawn from the files by the seed, or of a cache's held-out text.

    Args:
        config: of the evaluation.
        tokenizer: of the model.
        made_from: hashes of model and tokenizer; a cache of others is refused.

    Raises:
        FeaturewatchError: no text, or a cache of another model.
    """
    if config.cache is not None:
        cache = ActivationCache(config.cache)
        _require_same(cache, config.cache, made_from)
        # Every other sequence has set a threshold of a training on this cache.
        sequences = heldout_sequences(cache, 2 * config.tokens)[1::2]
        place = f"activation cache {config.cache}"
    else:
        sequences = _from_files(config, tokenizer)
        place = f"data {', '.join(path.name for path in config.data)}"
    if not any((sequence.reasons_n == Reason.KEPT).any() for sequence in sequences):
        raise FeaturewatchError(place, "it holds no text to measure on", "give longer or more documents")
    return sequences


def outlier_rule(config: EvalConfig) -> str:
    """What an outlier is, in words."""
    if config.cache is None:
        return (
            f"Outliers are content rows whose norm at an evaluated hook point is above {config.outlier_factor:g} times "
            "the median norm of content rows there."
        )
    factor = float(ActivationCache(config.cache).manifest.settings["outlier_factor"])
    return (
        f"Outliers are content rows whose norm at a hook point of the cache is above {factor:g} times the median there "
        "or that hold a value beyond the cache's dtype."
    )


def _from_files(config: EvalConfig, tokenizer: Any) -> list[TokenSequence]:
    documents = list(read_documents(config.data, config.text_field, config.document_field))
    require_some(documents, config.data)
    maker = SequenceMaker(tokenizer, _harvest_config(config))
    chosen: list[TokenSequence] = []
    total = 0
    for document in shuffled(documents, config.seed):
        if config.heldout_share and not document.is_held_out(config.heldout_share):
            continue
        for sequence in maker.sequences(document):
            if total >= config.tokens:
                return chosen
            chosen.append(sequence)
            total += len(sequence.token_ids_n)
    if not chosen and config.heldout_share:
        raise FeaturewatchError(
            f"heldout-share {config.heldout_share:g} of {len(documents):,} documents",
            "none of them is held out",
            "give more documents or a larger share",
        )
    return chosen


def _harvest_config(config: EvalConfig) -> HarvestConfig:
    """Windows as the training cuts them."""
    return HarvestConfig(
        model=config.model,
        data=config.data,
        hook_points=("resid_post.0",),
        context=config.context,
        batch_tokens=config.batch_tokens,
        heldout_tokens=2 * config.context,
        chat_share=config.chat_share,
        seed=config.seed,
    )


def _require_same(cache: ActivationCache, folder: Path, made_from: dict[str, str]) -> None:
    other = [what for what, digest in made_from.items() if cache.manifest.identity.get(what, digest) != digest]
    if other:
        raise FeaturewatchError(
            f"activation cache {folder}",
            f"its text was tokenised for another {' and another '.join(other)}",
            "give the cache of this model's training, or text with --data",
        )
