"""From documents to token sequences with a reason for every position that is not to be trained on.

A window of a document becomes a sequence in one of two forms: plain (BOS and the window's tokens) or rendered through
the model's chat template. In the second form everything outside the turns' own text, a default system turn included,
counts as template: these positions are the same in every chat.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from training.harvest.chat import ChatTemplate, Turn, as_turns, speaker_turns
from training.harvest.config import HarvestConfig
from training.harvest.documents import Document

_SHORTEST = 4
_logger = logging.getLogger(__name__)
_Tokens = tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]


class Reason(enum.IntEnum):
    """Why a position is excluded from training; KEPT is not."""

    KEPT = 0
    BOS = 1
    SPECIAL = 2
    TEMPLATE = 3
    OUTLIER = 4
    PADDING = 5


@dataclass(frozen=True)
class TokenSequence:
    """Tokens of one forward pass row.

    Attributes:
        token_ids_n: int32 [n].
        reasons_n: uint8 [n], values of `Reason`.
        held_out: belongs to the part for the card.
    """

    token_ids_n: npt.NDArray[np.int32]
    reasons_n: npt.NDArray[np.uint8]
    held_out: bool


class SequenceMaker:
    """Cuts documents into windows and renders them.

    Args:
        tokenizer: a fast Hugging Face tokenizer (offsets are needed).
        config: of the harvest.
    """

    needs = "text of 4 tokens or more"
    """What a part of the documents must have to give a sequence."""

    def __init__(self, tokenizer: Any, config: HarvestConfig) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._special_ids = special_ids(tokenizer)
        self._refusal_told = False
        self._template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
        self._chat_window = config.context - 1
        if self._template:
            turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
            try:
                empty = self._template.render(turns)
            except TemplateError as error:
                self._tell_refusal(error)
                self._template = None
            else:
                self._chat_window = max(_SHORTEST, config.context - len(self._ids(empty)) - 2)

    def all_sequences(self, documents: Iterable[Document]) -> Iterator[TokenSequence]:
        """The sequences of all documents; as many documents are taken as the sequences need."""
        for document in documents:
            yield from self.sequences(document)

    def sequences(self, document: Document) -> Iterator[TokenSequence]:
        """The document's sequences; the choices depend on its text and the seed only.

        A conversation or transcript whose turns the template refuses is cut into plain windows.
        """
        config = self._config
        rng = np.random.default_rng([config.seed, document.digest])
        held_out = document.is_held_out(config.heldout_share)
        template = self._template
        if template and (turns := _turns(document)):
            if chat := self._chat(template, turns):
                yield from self._sequence(*chat, held_out)
                return
            template = None
        encoding = self._tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = encoding["offset_mapping"]
        for start, stop, is_chat in self._windows(len(offsets), rng, may_chat=template is not None):
            text = document.text[offsets[start][0] : offsets[stop - 1][1]]
            if is_chat and template and (chat := self._chat(template, as_turns(text, rng))):
                yield from self._sequence(*chat, held_out)
            else:
                yield from self._plain(encoding["input_ids"][start:stop], held_out)

    def _windows(self, length: int, rng: np.random.Generator, *, may_chat: bool) -> list[tuple[int, int, bool]]:
        config = self._config
        if not length:
            return []  # a normaliser may leave nothing of a text
        if may_chat and length <= config.prompt_tokens:
            return [(0, min(length, self._chat_window), True)]
        windows, start = [], 0
        while length - start >= _SHORTEST:
            is_chat = may_chat and bool(rng.random() < config.chat_share)
            stop = min(length, start + (self._chat_window if is_chat else config.context - 1))
            windows.append((start, stop, is_chat))
            start = stop
        most = config.windows_per_document
        if most and len(windows) > most:
            windows = [windows[index] for index in sorted(rng.choice(len(windows), most, replace=False))]
        return windows

    def _chat(self, template: ChatTemplate, turns: list[Turn]) -> _Tokens | None:
        """Token ids and reasons of the rendered turns; None if the template refuses them."""
        try:
            rendered = template.render(turns)
            spans = template.spans(turns, rendered)
        except TemplateError as error:
            self._tell_refusal(error)
            return None
        encoding = self._tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts_n, ends_n = np.array(encoding["offset_mapping"], np.int64).reshape(-1, 2).T
        outside = Reason.KEPT if self._config.keep_template else Reason.TEMPLATE
        reasons_n = np.full(len(starts_n), outside, np.uint8)
        for begin, end in spans:
            reasons_n[(starts_n >= begin) & (ends_n <= end)] = Reason.KEPT
        return np.array(encoding["input_ids"], np.int32), reasons_n

    def _tell_refusal(self, error: TemplateError) -> None:
        if not self._refusal_told:
            _logger.warning("the chat template refuses turns (%s): such text is taken without it", error)
        self._refusal_told = True

    def _plain(self, ids: Sequence[int], held_out: bool) -> Iterator[TokenSequence]:
        ids_n = np.array([self._bos(), *ids], np.int32)
        yield from self._sequence(ids_n, np.full(len(ids_n), Reason.KEPT, np.uint8), held_out)

    def _sequence(
        self, ids_n: npt.NDArray[np.int32], reasons_n: npt.NDArray[np.uint8], held_out: bool
    ) -> Iterator[TokenSequence]:
        ids_n, reasons_n = ids_n[: self._config.context], reasons_n[: self._config.context]
        if len(ids_n) < _SHORTEST:
            return
        if not self._config.keep_special:
            reasons_n = np.where(np.isin(ids_n, self._special_ids), np.uint8(Reason.SPECIAL), reasons_n)
        reasons_n[0] = Reason.KEPT if self._config.keep_bos else Reason.BOS
        yield TokenSequence(ids_n, reasons_n, held_out)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _bos(self) -> int:
        for token_id in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0


def _turns(document: Document) -> list[Turn]:
    return [{"role": role, "content": text} for role, text in document.turns] or speaker_turns(document.text)


def special_ids(tokenizer: Any) -> npt.NDArray[np.int32]:
    """Ids of special tokens: BOS, EOS, padding and the like, and added tokens that are marked as special.

    Tokens that were only added to the vocabulary (words of a domain, a run of spaces) are text.
    """
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return np.array(sorted({*tokenizer.all_special_ids, *added}), np.int32)
