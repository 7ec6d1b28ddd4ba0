"""`featurewatch policy`: everything one does with policy files. One command a file, listed in `commands`."""

from monitor.cli.policy.commands import app

__all__ = ["app"]
