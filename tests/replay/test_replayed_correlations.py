"""Correlations over what a policy's rules would have done on recorded generations."""

from __future__ import annotations

from collections.abc import Sequence

from record_samples import MADE_OF, POLICY, policy, read, record

from monitor.policy import Policy
from monitor.replay import Recorded, ReplayReport, replay
from monitor.v1.alerts_pb2 import Alert

REPEATED = "{id: BIO-MANY, kind: count, rules: [BIO-001], within: 10m, atLeast: 2, severity: critical}"
CORRELATED = POLICY + f"  correlations:\n    - {REPEATED}\n"
LOUD, SHARP, QUIET = [0.0, 0, 4, 4, 4, 4], [0.0, 0, 1.6, 1.6, 1.6, 1.6], [0.0] * 6
MINUTE = 60_000_000_000
DAY = 1_800_000_000_000_000_000


def generation(
    name: str,
    minute: float,
    scores: Sequence[float] = LOUD,
    *,
    peak: Sequence[float] | None = None,
    tenant: str = "acme",
    after: float = 0,
    completes: Sequence[str] = (),
    model: str = "tiny",
    of: Policy | None = None,
) -> Recorded:
    """One that begins at a minute; its alerts came so many minutes `after` that, the last of them with what it
    completed."""
    written = record(scores, peak, generation=name, of=of or policy(CORRELATED))
    written.summary.tenant, written.summary.model = tenant, model
    written.summary.start_unix_nanos = DAY + round(minute * MINUTE)
    for alert in written.alerts:
        alert.time_unix_nanos = DAY + round((minute + after) * MINUTE)
    for rule in completes:
        correlated = Alert()
        correlated.CopyFrom(written.alerts[-1])
        correlated.rule = rule
        written.alerts.append(correlated)
    return read(written)


def replayed(text: str, *records: Recorded) -> ReplayReport:
    return replay(policy(text), records, MADE_OF)


def fired(text: str, *records: Recorded) -> list[str]:
    return replayed(text, *records).correlations["BIO-MANY"].fired


def test_the_live_policy_completes_what_was_recorded() -> None:
    # The newest first, as a store gives them.
    records = [
        generation("d", 30),
        generation("c", 9, completes=[]),
        generation("b", 5, completes=["BIO-MANY"]),
        generation("a", 0),
    ]
    report = replayed(CORRELATED, *records)
    outcome = report.correlations["BIO-MANY"]
    assert (outcome.fired, outcome.recorded, outcome.severity) == (["b"], ["b"], "critical")
    assert (outcome.newly, outcome.no_longer) == ([], [])
    assert report.severities() == {"high": ["d", "c", "b", "a"], "critical": ["b"]}


def test_what_another_policy_completes_and_what_no_longer() -> None:
    looser = CORRELATED.replace("fire: 2, clear: 1.5", "fire: 1.2, clear: 1.1")
    records = [generation("b", 5, SHARP), generation("a", 0, SHARP)]
    outcome = replayed(looser, *records).correlations["BIO-MANY"]
    assert (outcome.fired, outcome.newly, outcome.no_longer) == (["b"], ["b"], [])
    stricter = CORRELATED.replace("atLeast: 2", "atLeast: 3").replace("BIO-MANY", "BIO-MORE")
    records = [generation("b", 5, completes=["BIO-MANY"]), generation("a", 0)]
    report = replayed(stricter, *records)
    assert report.correlations["BIO-MORE"].fired == []
    assert (report.correlations["BIO-MANY"].severity, report.correlations["BIO-MANY"].no_longer) == ("", ["b"])


def test_groups_are_those_of_the_records() -> None:
    apart = [generation("b", 5, tenant="umbrella"), generation("a", 0)]
    assert fired(CORRELATED, *apart) == []
    assert fired(CORRELATED.replace("within", "groupBy: [], within"), *apart) == ["b"]
    models = CORRELATED.replace("kind: count", "kind: distinct, of: model")
    assert fired(models, generation("b", 5), generation("a", 0)) == []
    assert fired(models, generation("b", 5, model="other"), generation("a", 0)) == ["b"]
    generations = CORRELATED.replace("kind: count", "kind: distinct, of: generation")
    twice = [0.0, 0, 4, 4, 0, 0, 0, 0, 4, 4, 4]
    assert fired(generations, generation("a", 0, twice)) == []
    assert fired(generations, generation("b", 5), generation("a", 0)) == ["b"]
    assert fired(CORRELATED, generation("a", 0, twice)) == ["a"]


def test_the_time_is_that_of_the_recorded_alert_else_of_the_beginning() -> None:
    assert fired(CORRELATED, generation("b", 12), generation("a", 0)) == []
    assert fired(CORRELATED, generation("b", 12), generation("a", 0, after=5)) == ["b"]
    # Nothing was recorded at the tokens at which the looser policy fires.
    looser = CORRELATED.replace("fire: 2, clear: 1.5", "fire: 1.2, clear: 1.1")
    assert fired(looser, generation("b", 12, SHARP), generation("a", 0, SHARP, after=5)) == []
    assert fired(looser, generation("b", 9, SHARP), generation("a", 0, SHARP, after=5)) == ["b"]


def test_an_alert_of_a_drop_does_not_say_when_its_token_was_judged() -> None:
    late = generation("a", 0)
    late.record.alerts[0].rule = "on-drop"
    late.record.alerts[0].time_unix_nanos = DAY + 5 * MINUTE
    assert fired(CORRELATED, generation("b", 12), late) == []


def test_tokens_of_a_generation_stay_in_order() -> None:
    """The first firing was recorded minutes after the beginning, the second is new: it cannot be before the first."""
    ordered = CORRELATED.replace("kind: count, rules: [BIO-001], within: 10m, atLeast: 2", "kind: ordered, %s")
    ordered = ordered.replace("peak.fire, severity", "peak.warn, severity").replace("fire: 3}", "warn: 2.5, fire: 3}")
    records = [generation("a", 0, LOUD, peak=[0, 0, 0, 0, 0, 2.7], after=5)]
    assert [alert.rule for alert in records[0].record.alerts] == ["BIO-001"]
    assert fired(ordered % "rules: [BIO-001, BIO-002], within: 10m", *records) == ["a"]
    assert fired(ordered % "rules: [BIO-002, BIO-001], within: 10m", *records) == []


def test_what_an_exception_holds_back_and_what_cannot_be_replayed_completes_nothing() -> None:
    exception = "exceptions: [{name: drill, match: {models: [tiny]}, reason: a, owner: a, expires: 2027-01-31}]"
    excepted = CORRELATED.replace("severity: high", f"severity: high, {exception}")
    assert fired(excepted, generation("b", 5), generation("a", 0)) == []
    restored = read(record(LOUD, first=4, generation="r", of=policy(CORRELATED)))
    report = replayed(CORRELATED.replace("revision: 1", "revision: 2"), generation("b", 5), restored)
    assert len(report.not_replayed) == 1
    assert report.correlations["BIO-MANY"].fired == []


def test_one_that_groups_by_tap_is_not_replayed() -> None:
    by_tap = CORRELATED.replace("within", "groupBy: [tap], within")
    records = [generation("b", 5, completes=["BIO-MANY"], of=policy(by_tap)), generation("a", 0, of=policy(by_tap))]
    report = replayed(by_tap, *records)
    assert report.correlations == {}
    assert report.unknown_correlations == {"BIO-MANY": "it groups by tap, and records do not say which tap it was"}
