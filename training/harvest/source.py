"""The batches of a harvest: the same documents in the same order each time it is iterated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from training.harvest.batches import TokenBatch, make_batches
from training.harvest.config import HarvestConfig
from training.harvest.documents import Document
from training.harvest.tokens import SequenceMaker, TokenSequence


class DocumentBatches:
    """The forward batches of all documents; iterating again gives the same ones."""

    def __init__(self, maker: SequenceMaker, documents: Sequence[Document], config: HarvestConfig) -> None:
        self._maker, self._documents, self._config = maker, documents, config
        self._finishing = False
        self._origins: dict[str, dict[str, Any]] = {}

    def __iter__(self) -> Iterator[TokenBatch]:
        self._finishing, self._origins = False, {}
        return make_batches(self._sequences(), self._config.batch_tokens)

    def finish(self) -> None:
        """No further documents: the iteration ends with the sequences that are waiting for a full batch."""
        self._finishing = True

    def origins(self) -> dict[str, dict[str, Any]]:
        """Documents and licences per category of what was read, no text."""
        return dict(sorted(self._origins.items()))

    def _sequences(self) -> Iterator[TokenSequence]:
        heldout = 0
        for sequence in self._maker.all_sequences(self._read()):
            if sequence.held_out:
                heldout += len(sequence.token_ids_n)
                if heldout > self._config.heldout_tokens:
                    continue
            yield sequence

    def _read(self) -> Iterator[Document]:
        for document in self._documents:
            if self._finishing:
                return
            entry = self._origins.setdefault(document.category or "unnamed", {"documents": 0, "licences": {}})
            entry["documents"] += 1
            licence = document.licence or "unknown"
            entry["licences"][licence] = entry["licences"].get(licence, 0) + 1
            yield document
