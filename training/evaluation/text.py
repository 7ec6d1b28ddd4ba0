"""The text of an evaluation as token sequences."""

from __future__ import annotations

import hashlib
import heapq
from pathlib import Path
from typing import Any

from monitor.errors import FeaturewatchError
from training.card.heldout import heldout_sequences
from training.card.left_out import outlier_rule as manifest_rule
from training.evaluation.config import EvalConfig
from training.harvest.cache import ActivationCache
from training.harvest.config import HarvestConfig
from training.harvest.documents import Document, read_documents, require_some
from training.harvest.tokens import Reason, SequenceMaker, TokenSequence

_CHARACTERS = 16  # of a token; in no script has a tokenizer that many on average
_READ = 200  # times the characters that are kept: the rest of a larger corpus is not read


def read_sequences(config: EvalConfig, tokenizer: Any, made_from: dict[str, str]) -> list[TokenSequence]:
    """About `config.tokens` positions, drawn from the files by the seed, or of a cache's held-out text.

    Of a corpus above 3,200 characters per position only the beginning is drawn from.

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
    return manifest_rule(ActivationCache(config.cache).manifest)


def _from_files(config: EvalConfig, tokenizer: Any) -> list[TokenSequence]:
    documents, seen = _drawn(config)
    if not seen:
        require_some([], config.data)
    if not documents:
        raise FeaturewatchError(
            f"heldout-share {config.heldout_share:g} of {seen:,} documents",
            "none of them is held out",
            "give more documents or a larger share",
        )
    maker = SequenceMaker(tokenizer, harvest_config(config))
    chosen: list[TokenSequence] = []
    total = 0
    for document in documents:
        for sequence in maker.sequences(document):
            if total >= config.tokens:
                return chosen
            chosen.append(sequence)
            total += len(sequence.token_ids_n)
    return chosen


def _drawn(config: EvalConfig) -> tuple[list[Document], int]:
    """Documents in an order that hashes of seed and text decide, and how many were read.

    Only so many characters are kept in memory that they surely make `config.tokens` tokens: 16 for each. Of files and
    data sets, which may be endless, the first 200 times as many characters are read.
    """
    kept: list[tuple[int, int, Document]] = []
    characters = seen = read = 0
    most = _CHARACTERS * config.tokens
    for document in read_documents(config.data, config.text_field, config.document_field):
        seen, read = seen + 1, read + len(document.text)
        if read > _READ * most:
            break
        if config.heldout_share and not document.is_held_out(config.heldout_share):
            continue
        digest = hashlib.sha256(f"{config.seed} {document.digest}".encode()).digest()
        heapq.heappush(kept, (-int.from_bytes(digest[:8], "big"), -seen, document))
        characters += len(document.text)
        while characters - len(kept[0][2].text) > most:
            characters -= len(heapq.heappop(kept)[2].text)
    return [document for _, _, document in sorted(kept, key=lambda item: item[:2], reverse=True)], seen


def harvest_config(config: EvalConfig) -> HarvestConfig:
    """What the harvest is asked for: text read and windows cut as in the training."""
    return HarvestConfig(
        model=config.model,
        data=config.data,
        hook_points=("resid_post.0",),
        context=config.context,
        batch_tokens=config.batch_tokens,
        heldout_tokens=2 * config.context,
        chat_share=config.chat_share,
        text_field=config.text_field,
        document_field=config.document_field,
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
