"""`featurewatch demo`: a monitored chat server, some traffic, what was flagged and what was not."""

from monitor.cli.demo.command import demo

__all__ = ["demo"]
