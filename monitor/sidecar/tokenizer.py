"""Texts and classes of tokens, from a tokenizer.json."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from monitor.errors import FeaturewatchError
from monitor.policy import ResponsePhases, TokenClasses
from monitor.sidecar.problem_log import ProblemLog

_log = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer.json"
# A character takes at most four byte-level tokens.
_CONTEXT_TOKENS = 8


class TokenReader:
    """What token ids mean. Without a tokenizer texts are empty and only position 0 has a class of its own."""

    def __init__(self, classes: TokenClasses, tokenizer: Tokenizer | None) -> None:
        self.classes = classes
        self.phases = ResponsePhases(classes.kinds)
        self.problems = ProblemLog(_log, "tokenizer")
        self._tokenizer = tokenizer

    @classmethod
    def unknown(cls) -> TokenReader:
        return cls(TokenClasses.unknown(), None)

    @classmethod
    def load(cls, folder: Path) -> TokenReader:
        """Reads `tokenizer.json` of a model folder, or that file itself; raises FeaturewatchError."""
        path = folder if folder.is_file() else folder / TOKENIZER_FILE
        try:
            text = path.read_text(encoding="utf-8")
            return cls(TokenClasses.from_tokenizer_json(json.loads(text)), Tokenizer.from_str(text))
        except OSError as error:
            raise FeaturewatchError(
                f"tokenizer {path} ({error.strerror})",
                f"transcripts need a readable {TOKENIZER_FILE}",
                "give the model's folder with --tokenizer",
            ) from error
        except Exception as error:  # `tokenizers` raises bare Exception for a file it cannot read.
            raise FeaturewatchError(
                f"tokenizer {path} ({error})",
                f"it must be a {TOKENIZER_FILE} of Hugging Face's tokenizers",
                "give the model's folder with --tokenizer",
            ) from error

    def texts(self, token_ids: Sequence[int]) -> list[str]:
        """One text per token; joined they are the whole. A character of several tokens stands at the last of them.

        Negative ids (unknown tokens) have no text, nor has a token that the tokenizer cannot decode: never raises.
        """
        if self._tokenizer is None:
            return [""] * len(token_ids)
        texts: list[str] = []
        stream, pending = DecodeStream(skip_special_tokens=False), 0
        for token_id in token_ids:
            stream, text = self._step(stream, token_id)
            pending = pending + 1 if text is None else 0
            # Bytes that never become a character must not hold back the rest.
            if token_id < 0 or pending > _CONTEXT_TOKENS:
                stream, pending = DecodeStream(skip_special_tokens=False), 0
            texts.append(text or "")
        return texts

    def text_of_last(self, token_ids: Sequence[int]) -> str:
        """Text of the last token, read in the context of those before it."""
        if self._tokenizer is None or not len(token_ids):
            return ""
        return self.texts(token_ids[-_CONTEXT_TOKENS:])[-1] or self._alone(token_ids[-1])

    def _step(self, stream: DecodeStream, token_id: int) -> tuple[DecodeStream, str | None]:
        """The token's text (None: bytes of a character that is not complete), and the stream to go on with."""
        assert self._tokenizer is not None
        if token_id < 0:
            return stream, ""
        try:
            return stream, stream.step(self._tokenizer, token_id)
        except Exception as error:  # noqa: BLE001  `tokenizers` raises bare Exception.
            # With byte fallback, bytes that turn out to be no character change text that was already given out.
            self.problems.note("text begun anew", f"at token {token_id}: {error}")
        stream = DecodeStream(skip_special_tokens=False)
        try:
            return stream, stream.step(self._tokenizer, token_id)
        except Exception as error:  # noqa: BLE001  As above; a text must never stop an alert or a record.
            self.problems.note("no text", f"token {token_id}: {error}")
        return DecodeStream(skip_special_tokens=False), ""

    def _alone(self, token_id: int) -> str:
        assert self._tokenizer is not None
        if token_id < 0:
            return ""
        try:
            return self._tokenizer.decode([token_id], skip_special_tokens=False)
        except Exception as error:  # noqa: BLE001  As in `_step`.
            self.problems.note("no text", f"token {token_id}: {error}")
            return ""
