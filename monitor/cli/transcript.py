"""A generation's tokens, coloured by score. Without colour, markers say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.padding import Padding
from rich.text import Text

from monitor.cli.printable import printable, printable_line
from monitor.v1.alerts_pb2 import Phase
from monitor.v1.generations_pb2 import GenerationRecord, TokenRecord

# Foreground and background together, so that it reads on dark and light terminals alike.
_HEAT = ("", "black on #fee0d2", "black on #fc9272", "white on #de2d26", "bold white on #99000d")
_HEAT_WORDS = ("", "near warn", "warn", "fire", "far above fire")
_MARKS = (("", ""), ("", ""), ("‹", "›"), ("«", "»"), ("«", "!»"))
_UNSEEN_STYLE = "italic dim underline"
_UNSEEN_MARK = ("~", "~")
_PHASES = {Phase.PHASE_PROMPT: "Prompt", Phase.PHASE_REASONING: "Reasoning", Phase.PHASE_RESPONSE: "Response"}


@dataclass(frozen=True)
class Scale:
    """Thresholds of the score column that colours the tokens."""

    column: int
    name: str
    warn: float
    fire: float

    def level(self, score: float) -> int:
        """0 (neutral) to 4; NaN is 0. A step is the distance from warn to fire, at least a tenth of fire."""
        step = max(self.fire - self.warn, 0.1 * abs(self.fire), 1e-6)
        return sum(score >= edge for edge in (self.warn - step / 2, self.warn, self.fire, self.fire + step))


@dataclass(frozen=True)
class Transcript:
    """Renders the tokens of a record under a heading per phase.

    Attributes:
        scale: how scores become colours; None where nothing was judged.
        fired: rules by the position at which they fired.
    """

    record: GenerationRecord
    scale: Scale | None
    fired: dict[int, list[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        coloured = console.color_system is not None and not console.no_color
        yield _legend(self.scale, coloured)
        for phase, tokens in _by_phase(self.record.tokens):
            yield Text(f"{_PHASES.get(phase, 'Unknown phase')} ({len(tokens)} tokens)", style="bold")
            yield Padding(self._line(tokens, coloured), (0, 0, 1, 2), expand=False)

    def _line(self, tokens: Sequence[TokenRecord], coloured: bool) -> Text:
        has_texts = any(token.text for token in self.record.tokens)
        line = Text()
        for (style, marks), group in groupby(tokens, key=self._look):
            run = ""
            for token in group:
                run += self._shown(token, has_texts)
                if rules := self.fired.get(token.position):
                    _append(line, run, style, marks, coloured)
                    run = ""
                    line.append(f"◀ {printable_line(', '.join(rules))} ", style="bold red" if coloured else "")
            _append(line, run, style, marks, coloured)
        line.rstrip()
        return line

    def _look(self, token: TokenRecord) -> tuple[str, tuple[str, str]]:
        """Style and, for terminals without colour, marks around the text."""
        if not token.observed:
            return _UNSEEN_STYLE, _UNSEEN_MARK
        level = self._level(token)
        return _HEAT[level], _MARKS[level]

    def _shown(self, token: TokenRecord, has_texts: bool) -> str:
        if self.record.content == "none":
            return "▪"
        if token.text:
            return printable(token.text)
        if not token.observed and not token.token_id:
            return "…"
        # Without a text: part of a character that a later token completes, or no tokenizer at all.
        return "" if has_texts else f"⟨{token.token_id}⟩"

    def _level(self, token: TokenRecord) -> int:
        if self.scale is None or self.scale.column >= len(token.token_scores):
            return 0
        return self.scale.level(token.token_scores[self.scale.column])


def _append(line: Text, text: str, style: str, marks: tuple[str, str], coloured: bool) -> None:
    if coloured:
        line.append(text, style=style)
    elif text:
        line.append(f"{marks[0]}{text}{marks[1]}")


def _legend(scale: Scale | None, coloured: bool) -> Group | Text:
    legend = Text()
    legend.append("Tokens: ", style="bold" if coloured else "")
    if scale is None:
        legend.append("no detector judged any of them; ")
    else:
        legend.append(f"own score of {printable_line(scale.name)}, warn {scale.warn:.3g}, fire {scale.fire:.3g}: ")
        for level in range(1, len(_HEAT)):
            if coloured:
                legend.append(f" {_HEAT_WORDS[level]} ", style=_HEAT[level])
                legend.append(" ")
            elif _MARKS[level][0]:
                _append(legend, _HEAT_WORDS[level], "", _MARKS[level], coloured)
                legend.append(" ")
    _append(legend, "not observed", _UNSEEN_STYLE, _UNSEEN_MARK, coloured)
    legend.append("  ◀ a rule fired here")
    return legend


def _by_phase(tokens: Sequence[TokenRecord]) -> list[tuple[Phase.ValueType, list[TokenRecord]]]:
    parts: list[tuple[Phase.ValueType, list[TokenRecord]]] = []
    for token in tokens:
        if not parts or parts[-1][0] != token.phase:
            parts.append((token.phase, []))
        parts[-1][1].append(token)
    return parts
