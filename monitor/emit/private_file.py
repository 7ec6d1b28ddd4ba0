"""Files that hold parts of prompts and answers: for their owner only."""

from __future__ import annotations

import os


def private(path: str, flags: int) -> int:
    """An `opener` for `open`: a file that it creates has mode 0600; one that is there keeps its mode.

    A named pipe that nobody reads is an OSError: opening it would otherwise wait for a reader, deaf to signals.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o600)
    os.set_blocking(descriptor, True)
    return descriptor


def private_or_new(path: str, flags: int) -> int:
    """As `private`, and creates the file where the mode of `open` would not ("r+b")."""
    return private(path, flags | os.O_CREAT)
