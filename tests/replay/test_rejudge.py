"""Recorded generations judged again: the same policy does the same, another what it would have done, or it is said why
that cannot be known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import CIRCUMSTANCES, MADE_OF, POLICY, policy, read, record

from monitor.policy import Mode
from monitor.replay import NotReplayableError, Recorded, rejudge
from monitor.replay.recorded import read_record
from monitor.replay.shelf import Shelf

SCORES = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40)


# Making an engine may compile its kernel.
@settings(deadline=None)
@given(st.data())
def test_the_policy_that_was_live_fires_as_recorded(data: st.DataObject) -> None:
    smooth = data.draw(SCORES)
    peak = data.draw(st.lists(st.floats(-5, 5, width=32), min_size=len(smooth), max_size=len(smooth)))
    written = record(smooth, peak)
    recorded = read(written)
    assert recorded.incomplete == {}
    again = rejudge(policy(), recorded, {})
    fired = [(firing.rule.id, firing.position) for firing in again.firings]
    assert fired == [(alert.rule, alert.position) for alert in written.alerts]
    assert (again.mode, again.reason) == (Mode.ALERT, "")


def fired(text: str, recorded: Recorded) -> list[tuple[str, int]]:
    return [(one.rule.id, one.position) for one in rejudge(policy(text), recorded, MADE_OF).firings]


HIGH = [0.0, 0.0, 0.0, 1.6, 1.6, 1.6, 1.6]


def test_other_thresholds_rules_and_names() -> None:
    recorded = read(record(HIGH))
    assert fired(POLICY, recorded) == []
    lower = POLICY.replace("fire: 2, clear: 1.5", "fire: 1.2, clear: 1.1")
    assert fired(lower, recorded) == [("BIO-001", 6)]
    assert fired(lower.replace("2 tokens", "1 token"), recorded) == [("BIO-001", 5)]
    renamed = lower.replace("smooth", "other").replace("name: bio", "name: elsewhere")
    again = rejudge(policy(renamed), recorded, {"other": MADE_OF["smooth"], "peak": MADE_OF["peak"]})
    assert [firing.position for firing in again.firings] == [6]
    assert fired(lower.replace("label: bombs", "label: other words"), recorded) == [("BIO-001", 6)]


def test_a_policy_judges_fewer_phases_than_the_recorded_one() -> None:
    recorded = read(record([0, 5, 5, 5, 5], prompt=3))
    assert fired(POLICY, recorded) == [("BIO-001", 2)]
    assert fired(POLICY.replace('models: ["*tiny*"]', "phases: [response]"), recorded) == [("BIO-001", 4)]


def reason(text: str, recorded: Recorded, made_of: object = None) -> str:
    with pytest.raises(NotReplayableError) as caught:
        rejudge(policy(text), recorded, MADE_OF if made_of is None else made_of)  # type: ignore[arg-type]
    return caught.value.rule


def test_what_is_not_in_the_record_is_said() -> None:
    recorded = read(record(HIGH))
    assert reason(POLICY.replace("index: 4", "index: 5"), recorded) == "its source differs from the recorded one"
    assert reason(POLICY.replace("{id: BIO", "{id: B").replace("peak", "new").replace("index: 4", "index: 5"), recorded)
    skips = POLICY.replace("halfLife: 2", "halfLife: 2, skip: [bos]")
    assert "skips other token classes" in reason(skips, recorded)
    prompt_only = policy(POLICY.replace('models: ["*tiny*"]', "phases: [prompt]"))
    assert reason(POLICY, read(record(HIGH, of=prompt_only))) == "it judges phases that the recorded one did not"


def test_another_probe_under_the_same_name_is_another_source() -> None:
    recorded = read(record(HIGH))
    changed = POLICY.replace("fire: 2,", "fire: 2.1,")
    probe = ("probe", "weights/bio.safetensors")
    other = {**MADE_OF, "smooth": {probe: "0" * 64}}
    assert reason(changed, recorded, other) == "probe weights/bio.safetensors is not the recorded one"
    missing = {**MADE_OF, "smooth": {probe: None}}
    assert "cannot be read, so it cannot be compared" in reason(changed, recorded, missing)
    # The policy that was recorded is replayed from what its own detectors said.
    assert rejudge(policy(), recorded, missing).firings == ()


def test_restored_positions_are_replayed_only_where_nothing_was_judged_in_them() -> None:
    why = "positions were restored from the prefix cache, without token scores"
    for scores, first in (([0.0, 3, 3, 3, 3], 3), ([0.0, 1, 2, 3, 4], 3), ([0.0, 3, 3, 3, 3], 1)):
        assert read(record(scores, first=first)).incomplete == {"bio/smooth": why, "bio/peak": why}
    # The first response token is judged, a prompt token behind the restored ones was not.
    skipped = policy(POLICY.replace('models: ["*tiny*"]', "phases: [response]"))
    assert read(record([0.0, 3, 3, 3, 3], prompt=3, first=2, of=skipped)).incomplete == {}


def test_scores_that_were_given_up_are_noticed() -> None:
    written = record(HIGH)
    for token in written.tokens[:4]:
        token.token_scores[:] = [np.nan, np.nan]
        token.scores[:] = [np.nan, np.nan]
    assert "do not lead to the recorded verdict" in read(written).incomplete["bio/smooth"]
    written.notes.append("scores and token ids of rows before position 4 were given up: the pool was full")
    assert "were given up" in read(written).incomplete["bio/smooth"]
    assert "were given up" in reason(POLICY, read(written))


def test_a_policy_that_is_not_for_the_request_does_not_judge_it() -> None:
    recorded = read(record(HIGH))
    again = rejudge(policy(POLICY.replace("*tiny*", "huge")), recorded, MADE_OF)
    assert (again.mode, again.judgement) == (Mode.OFF, None)
    assert again.reason == "match.models (huge) does not fit tiny"


def test_thresholds_of_another_configuration_fall_to_shadow() -> None:
    stale = policy(POLICY.replace("dtype: float32", "dtype: bfloat16"))
    again = rejudge(stale, read(record(HIGH)), MADE_OF)
    assert (again.mode, again.reason) == (Mode.SHADOW, "dtype: fitted on bfloat16, serving float32")


def test_a_record_without_texts_is_replayed_by_a_file_of_the_same_text() -> None:
    written = record([0, 0, 5, 5, 5], with_text=False)
    unread = read(written)
    assert unread.without_text == {"bio": "its text is not in the record"}
    assert reason(POLICY, unread) == "its scores are not recorded"
    assert fired(POLICY, read(written, policy())) == [("BIO-001", 3)]


def test_a_text_that_this_version_refuses_is_told() -> None:
    written = record(HIGH)
    written.provenance[0].text, written.provenance[0].sha256 = "kind: Other", "f" * 64
    unread = read_record(written, CIRCUMSTANCES, Shelf())
    assert "cannot read its recorded text" in unread.without_text["bio"]
