"""The would-have-fired report."""

from __future__ import annotations

from record_samples import MADE_OF, POLICY, policy, read, record

from monitor.replay import replay

QUIET, LOUD, SHARP = [0.0] * 6, [0.0, 0, 4, 4, 4, 4], [0.0, 0, 1.6, 1.6, 1.6, 1.6]


def records() -> list[object]:
    named = {"quiet": QUIET, "loud": LOUD, "sharp": SHARP}
    found = [read(record(scores, generation=name)) for name, scores in named.items()]
    return [*found, read(record(LOUD, [0, 0, 0, 5, 0, 0], generation="both"))]


def test_the_live_policy_differs_in_nothing() -> None:
    report = replay(policy(), records(), MADE_OF)  # type: ignore[arg-type]
    assert (report.generations, report.replayed) == (4, ["quiet", "loud", "sharp", "both"])
    assert report.flagged == report.was_flagged == ["loud", "both"]
    assert (report.newly_flagged, report.no_longer_flagged) == ([], [])
    assert report.severities() == {"high": ["loud"], "low": ["both"]}
    assert report.rules["BIO-001"].fired == report.rules["BIO-001"].recorded


def test_what_a_looser_and_a_stricter_policy_change() -> None:
    looser = POLICY.replace("fire: 2, clear: 1.5", "fire: 1.2, clear: 1.1")
    report = replay(policy(looser), records(), MADE_OF)  # type: ignore[arg-type]
    assert (report.newly_flagged, report.no_longer_flagged) == (["sharp"], [])
    assert report.rules["BIO-001"].newly == ["sharp"]
    stricter = POLICY.replace("fire: 2, clear: 1.5", "fire: 9, clear: 9").replace("BIO-002", "BIO-003")
    report = replay(policy(stricter), records(), MADE_OF)  # type: ignore[arg-type]
    assert (report.newly_flagged, report.no_longer_flagged) == ([], ["loud"])
    assert report.rules["BIO-001"].no_longer == ["loud"]
    assert (report.rules["BIO-002"].severity, report.rules["BIO-002"].no_longer) == ("", ["both"])
    assert report.rules["BIO-003"].newly == ["both"]


def test_generations_that_cannot_be_replayed_are_counted_by_why() -> None:
    restored = read(record(LOUD, first=4, generation="restored"))
    report = replay(policy(POLICY.replace("tiny*", "tiny")), [*records(), restored], MADE_OF)  # type: ignore[list-item]
    why = "positions were restored from the prefix cache, without token scores"
    assert report.not_replayed == {why: ["restored"]}
    other = replay(policy(POLICY.replace('"*tiny*"', "huge")), records(), MADE_OF)  # type: ignore[arg-type]
    assert other.not_for == {"match.models (huge) does not fit tiny": ["quiet", "loud", "sharp", "both"]}
    assert other.replayed == []


def test_an_expired_exception_holds_no_more() -> None:
    exception = (
        "exceptions: [{name: drill, match: {models: [tiny]}, reason: drill, owner: a, expires: %s}], severity: high"
    )
    for expires, flagged, excepted in (("2026-11-22", ["both"], ["loud"]), ("2026-11-21", ["loud", "both"], [])):
        text = POLICY.replace("severity: high", exception % expires)
        report = replay(policy(text), records(), MADE_OF)  # type: ignore[arg-type]
        assert (report.flagged, report.rules["BIO-001"].excepted) == (flagged, excepted)
