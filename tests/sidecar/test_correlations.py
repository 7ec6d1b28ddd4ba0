"""Which state correlations keep: over reloads, for exceptions, within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from correlated_world import REPEATED, correlated_policy
from fake_tap import FrameMaker, Rows, begin, end
from sidecar_kit import new_judge

from monitor.policy import parse_policy
from monitor.policy.correlate import Correlator
from monitor.policy.correlators import Correlators
from monitor.sidecar.correlations import Correlations
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.verdicts import Verdicts

SECOND = 1_000_000_000


class Session:
    """Requests of one tap that fire LOUD-001; its plan can be exchanged as a reload does it."""

    def __init__(self, plan: TapPlan) -> None:
        self.now = 0
        self.correlators = Correlators(most=3)
        self.correlations = Correlations(lambda: self.now, self.correlators)
        self.ledger = PolicyLedger()
        self._plan = plan
        self._handles: Iterator[int] = iter(range(1, 10_000))
        self.load(correlated_policy())

    def load(self, text: str) -> None:
        policy = parse_policy(text)
        served = replace(self._plan.served["loud"], policy=policy)
        self.plan = replace(self._plan, served={**self._plan.served, "loud": served})
        self._judge = new_judge(self.plan)
        self._maker = FrameMaker(self.plan.watch_plan)

    def fire(self, tenant: str = "acme", exception: str = "") -> list[str]:
        """Rules that fire on another request, correlations too."""
        verdicts = self.judged(tenant)
        for alert in verdicts.alerts:
            alert.exception = exception
        self.correlations.follow(verdicts, "tap", self.ledger)
        (request,) = verdicts.flagged
        assert request.alerts == verdicts.alerts
        return [alert.rule for alert in verdicts.alerts]

    def judged(self, tenant: str) -> Verdicts:
        handle = next(self._handles)
        rows = [Rows(handle, 0, (0, 1, 2, 3), dense=(0, 0, 0, 9))]
        return self._judge.apply(self._maker(rows, begins=[begin(handle, tenant=tenant)], ends=[end(handle, 4)]))


@pytest.fixture
def session(plan: TapPlan) -> Session:
    return Session(plan)


COMPLETE = ["LOUD-001", "LOUD-REPEATED"]


def test_state_outlives_a_reload_that_leaves_the_correlation_as_it_is(session: Session) -> None:
    for _ in range(4):
        assert session.fire() == ["LOUD-001"]
    session.load(correlated_policy().replace("revision: 2", "revision: 3"))
    assert session.fire() == COMPLETE


def test_another_text_of_a_correlation_begins_anew(session: Session) -> None:
    for _ in range(4):
        session.fire()
    session.load(correlated_policy(correlation=REPEATED.replace("10m", "11m")))
    assert [session.fire() for _ in range(5)] == [["LOUD-001"]] * 4 + [COMPLETE]


def test_what_an_exception_holds_back_completes_nothing(session: Session) -> None:
    for _ in range(10):
        assert session.fire(exception="red-team") == ["LOUD-001"]
    for _ in range(4):
        assert session.fire() == ["LOUD-001"]
    assert session.fire() == COMPLETE


def test_only_firings_within_the_time_span_count(session: Session) -> None:
    for _ in range(4):
        session.fire()
    session.now += 601 * SECOND
    assert [session.fire() for _ in range(5)] == [["LOUD-001"]] * 4 + [COMPLETE]


def test_the_alert_id_is_the_same_whenever_the_same_alert_completes_it(plan: TapPlan) -> None:
    ids = []
    for _ in range(2):
        session = Session(plan)
        for _ in range(4):
            session.fire()
        verdicts = session.judged("acme")
        session.correlations.follow(verdicts, "tap", session.ledger)
        ids.append([alert.alert_id for alert in verdicts.alerts])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


def test_correlations_of_gone_texts_are_forgotten_when_their_time_is_over(session: Session) -> None:
    for minutes in range(10, 60):
        session.load(correlated_policy(correlation=REPEATED.replace("10m", f"{minutes}m")))
        session.fire()
        session.now += 61 * 60 * SECOND
        assert len(session.correlators) <= 2
    assert not session.correlations.evicted


def test_the_least_recent_make_room_when_there_are_too_many(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    for minutes in range(10, 15):
        session.load(correlated_policy(correlation=REPEATED.replace("10m", f"{minutes}m")))
        session.fire("acme")
        session.fire("umbrella")
    assert len(session.correlators) == 3
    assert session.correlations.evicted == {"loud": 4}
    assert caplog.text.count("correlations forget groups") == 1


def test_a_correlation_that_fails_costs_no_alert(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("boom")

    monkeypatch.setattr(Correlator, "observe", fail)
    verdicts = session.judged("acme")
    session.correlations.follow(verdicts, "tap", session.ledger)
    assert [alert.rule for alert in verdicts.alerts] == ["LOUD-001"]
    (request,) = verdicts.flagged
    assert request.notes == ["correlations of loud/LOUD-001 could not be followed"]
    assert session.correlations.failed == 1
