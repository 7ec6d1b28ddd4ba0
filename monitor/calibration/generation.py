"""What is calibrated on: the token scores of generations that are known to be benign, or harmful."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.policy.score_trace import ScoreTrace


@dataclass(frozen=True)
class Generation:
    """One generation of the sample.

    Attributes:
        name: where it comes from, for messages: a file and line, or a generation's id.
        trace: the scores of its tokens.
        is_harmful: it should be flagged; else it should not.
        source: the data set it belongs to; may be empty.
        category: of the harm; may be empty.
    """

    name: str
    trace: ScoreTrace
    is_harmful: bool
    source: str = ""
    category: str = ""
