"""The command as the CLI knows it: its options are put together when it is used, because architectures need torch."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from training.settings.keys import all_keys, run_keys


def train() -> None:
    """Train sparse autoencoders at one or more hook points of MODEL, with one pass of the model for all."""


class TrainCommand(TyperCommand):
    """Hands everything on to a command that is made at the first use."""

    _made: Any = None

    def get_params(self, ctx: Any) -> list[Any]:
        return list(self._command().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--help" not in args:
            all_keys()  # without torch, which an architecture needs, it is said here and not that an option is unknown
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        return self._command().invoke(ctx)

    def _command(self) -> Any:
        if self._made is None:
            from monitor.cli.train.command import command_with

            app = typer.Typer(add_completion=False)
            app.command("train", help=self.help)(command_with(_known_keys()))
            self._made = typer.main.get_command(app)
        return self._made


def _known_keys() -> dict[str, Any]:
    try:
        return all_keys()
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return run_keys()
