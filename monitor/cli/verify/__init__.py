"""`featurewatch verify`: does a running deployment see what it should? One module a concern."""

from monitor.cli.verify.command import verify

__all__ = ["verify"]
