"""Texts as the server would see them: rendered through the chat template, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from monitor.cli.calibration.texts import Sample
from monitor.errors import FeaturewatchError

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """A sample's tokens: int64 [n], of which the first `prompt` are the prompt's."""

    sample: Sample
    ids_n: Ids
    prompt: int


@dataclass(frozen=True)
class Rendered:
    """Attributes:

    tokens: of the samples that fit, in their order.
    left_out: why, and how many do not.
    chat: through a chat template; else the tokenizer has none and texts are taken as they are.
    """

    tokens: list[Tokens]
    left_out: dict[str, int]
    chat: bool


def render(tokenizer: Any, samples: Sequence[Sample], context: int) -> Rendered:
    """A prompt is a user turn with the generation prompt behind it; a response is the tokens that follow.

    Longer ones than `context` are left out: what they were cut to would be another text.

    Raises:
        FeaturewatchError: the template refuses a text, or none fits.
    """
    chat = bool(tokenizer.chat_template)
    found, too_long = [], 0
    for sample in samples:
        prompt = _prompt_ids(tokenizer, sample, chat=chat)
        answer = [] if not sample.response else _ids(tokenizer, sample.response, special=False)
        if len(prompt) + len(answer) > context:
            too_long += 1
        else:
            found.append(Tokens(sample, np.array([*prompt, *answer], np.int64), len(prompt)))
    why = f"longer than {context:,} tokens"
    if not found:
        raise FeaturewatchError(f"{too_long:,} texts", f"all are {why}", "give a larger --context, or shorter texts")
    return Rendered(found, {why: too_long} if too_long else {}, chat)


def _prompt_ids(tokenizer: Any, sample: Sample, *, chat: bool) -> list[int]:
    if not chat:
        return _ids(tokenizer, sample.prompt, special=True)
    turns = [{"role": "user", "content": sample.prompt}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise FeaturewatchError(
            f"{sample.name} ({error})", "the model's chat template refuses this text", "leave the row out"
        ) from error
    return _ids(tokenizer, text, special=False)


def _ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
