"""What the fixture `featurewatch` gives."""

from __future__ import annotations

from collections.abc import Callable

# Takes the words of a command line; returns exit code, stdout, stderr.
Command = Callable[..., tuple[int, str, str]]
