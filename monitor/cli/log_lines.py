"""Log lines that hold ids which clients choose."""

from __future__ import annotations

import logging

from monitor.cli.printable import printable_line, printable_lines


class PrintableFormatter(logging.Formatter):
    """One line a message, whatever ids it quotes; tracebacks keep their lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable_line(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802
        return printable_lines(super().formatException(ei))  # type: ignore[arg-type]


def log_to_stderr() -> None:
    """Logs of this process from INFO on."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
