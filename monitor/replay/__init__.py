"""Recorded generations judged again: what a policy would have done, and why each rule stood as it did. Pure: no I/O."""

from monitor.replay.explain import Explanation, RuleView, Span, explain
from monitor.replay.other_alerts import OtherAlert
from monitor.replay.recorded import Circumstances, Recorded, read_record
from monitor.replay.rejudge import NotReplayableError, Rejudged, rejudge
from monitor.replay.report import ReplayReport, RuleOutcome, replay

__all__ = [
    "Circumstances",
    "Explanation",
    "NotReplayableError",
    "OtherAlert",
    "Recorded",
    "Rejudged",
    "ReplayReport",
    "RuleOutcome",
    "RuleView",
    "Span",
    "explain",
    "read_record",
    "rejudge",
    "replay",
]
