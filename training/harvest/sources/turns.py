"""Conversations in rows: ``[{"role": ..., "content": ...}]``, or ``[{"from": ..., "value": ...}]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

TURN_FIELDS: Final = ("messages", "conversations", "conversation")
_ROLES: Final = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant"}


def turns_of(value: Any) -> tuple[tuple[str, str], ...] | None:
    """Role and text of each turn; None for anything that is no conversation.

    Of a content in parts, the texts are taken.
    """
    if not isinstance(value, list):
        return None
    turns = [_turn(item) for item in value]
    return None if any(turn is None for turn in turns) else tuple(turn for turn in turns if turn and turn[1].strip())


def _turn(item: Any) -> tuple[str, str] | None:
    if not isinstance(item, Mapping):
        return None
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if isinstance(content, list):
        content = "\n".join(str(part["text"]) for part in content if isinstance(part, Mapping) and part.get("text"))
    if not isinstance(role, str) or not isinstance(content, str | None):
        return None
    return _ROLES.get(role.lower(), role.lower()), content or ""
