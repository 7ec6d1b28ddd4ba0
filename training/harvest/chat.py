"""Turns rendered through a chat template, and where each turn's own text lies in the result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

_SPEAKER = re.compile(r"^(Human|User|Assistant): ?", re.MULTILINE)
_ROLES = {"Human": "user", "User": "user", "Assistant": "assistant"}
Turn = dict[str, str]


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer that has a chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._headers: dict[tuple[str, ...], list[str]] = {}

    def render(self, turns: Sequence[Turn]) -> str:
        """The text that the server would see; with the generation prompt after a user turn.

        Raises:
            jinja2.TemplateError: the template refuses the turns.
        """
        prompt_only = turns[-1]["role"] == "user"
        return str(self._tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=prompt_only))

    def spans(self, turns: Sequence[Turn], rendered: str) -> list[tuple[int, int]]:
        """Where the turns' own texts lie in `rendered`, from and to.

        Each text is looked for after the header that the template puts before it, so that words which a header or a
        default system turn has as well are not taken for it. A text that the template changed is left out.
        """
        found, position = [], 0
        for turn, header in zip(turns, self._headers_before(turns), strict=True):
            content = turn["content"].strip()  # templates may strip it
            after = rendered.find(header, position)
            if after < 0:
                break
            begin = rendered.find(content, after + len(header))
            if content and begin >= 0:
                position = begin + len(content)
                found.append((begin, position))
        return found

    def _headers_before(self, turns: Sequence[Turn]) -> list[str]:
        """What the template writes before each turn's text, from the end of the text before it."""
        roles = tuple(turn["role"] for turn in turns)
        if roles not in self._headers:
            marks = [f"\ue000{index}\ue001" for index in range(len(roles))]  # private use: in no template
            rendered = self.render([{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)])
            headers = []
            for mark in marks:
                header, _, rendered = rendered.partition(mark)
                headers.append(header)
            self._headers[roles] = headers
        return self._headers[roles]


def speaker_turns(text: str) -> list[Turn]:
    """Turns of a transcript written as ``Human:`` / ``User:`` / ``Assistant:`` lines; empty for any other text.

    They begin with the user's and alternate, as many templates demand: equal neighbours become one turn, and what an
    assistant says before any user is left out.
    """
    marks = list(_SPEAKER.finditer(text))
    if len(marks) < 2 or text[: marks[0].start()].strip():
        return []
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    turns: list[Turn] = []
    for mark, end in zip(marks, ends, strict=True):
        role, content = _ROLES[mark.group(1)], text[mark.end() : end].strip()
        if not content or (role == "assistant" and not turns):
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n{content}"
        else:
            turns.append({"role": role, "content": content})
    return turns


def as_turns(text: str, rng: np.random.Generator) -> list[Turn]:
    """Text as a user turn, or split at a space into a user and an assistant turn (an even chance for longer text)."""
    text = text.strip()
    if len(text) < 200 or rng.random() < 0.5:
        return [{"role": "user", "content": text}]
    cut = text.find(" ", int(len(text) * rng.uniform(0.1, 0.7)))
    if cut <= 0:
        return [{"role": "user", "content": text}]
    return [{"role": "user", "content": text[:cut]}, {"role": "assistant", "content": text[cut:].strip()}]
