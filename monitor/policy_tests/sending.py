"""The requests of a test one by one, in time."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.policy_tests.generation import Generation
from monitor.policy_tests.schema import Case
from monitor.policy_tests.times import times_of


@dataclass(frozen=True)
class Sent:
    """One request.

    Attributes:
        number: from 0, in the order in which the test is written.
        entry: index into the test's `requests`; -1 where the test itself is the request.
        time_nanos: when it begins, from the start of the test on. Its tokens take no time.
        given: its tokens, and what came with them.
    """

    number: int
    entry: int
    time_nanos: int
    given: Generation

    @property
    def name(self) -> str:
        """As the file calls it; empty when it does not, and of a test of one request."""
        return (self.given.name or "") if self.entry >= 0 else ""


def requests_of(case: Case) -> list[Sent]:
    """In the order in which the test is written."""
    if case.requests is None:
        return [Sent(0, -1, 0, case)]
    found = list[Sent]()
    for entry, given in enumerate(case.requests):
        found += [Sent(len(found) + k, entry, time, given) for k, time in enumerate(times_of(given.time))]
    return found


def is_meant(sent: Sent, which: int | str | None) -> bool:
    """Whether an expectation that names a request so is about this one; None names every request."""
    return which is None or which in (sent.number, sent.name)
