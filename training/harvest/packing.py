"""Plain packing: documents joined with EOS and cut into full windows, without chat template and padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from monitor.errors import FeaturewatchError
from training.harvest.config import HarvestConfig
from training.harvest.documents import Document
from training.harvest.tokens import SequenceMaker, TokenSequence


class PackedMaker(SequenceMaker):
    """Windows of `context` tokens: BOS and the next tokens of all documents, one stream for each part of the split.

    A window may span documents, which then see one another; a rest that fills no window is left out.

    Raises:
        FeaturewatchError: the tokenizer has no EOS.
    """

    def __init__(self, tokenizer: Any, config: HarvestConfig) -> None:
        super().__init__(tokenizer, config)
        if tokenizer.eos_token_id is None:
            raise FeaturewatchError(
                f"packing for {config.model}",
                "its tokenizer has no EOS to put between documents",
                "leave --packing out",
            )
        self.needs = f"text to fill a window of {config.context} tokens"

    def all_sequences(self, documents: Iterable[Document]) -> Iterator[TokenSequence]:
        streams: dict[bool, list[int]] = {False: [], True: []}
        size = self._config.context - 1
        for document in documents:
            held_out = document.is_held_out(self._config.heldout_share)
            stream = streams[held_out]
            stream += [*self._ids(document.text), self._tokenizer.eos_token_id]
            for start in range(0, len(stream) - size + 1, size):
                yield from self._plain(stream[start : start + size], held_out)
            del stream[: len(stream) // size * size]
