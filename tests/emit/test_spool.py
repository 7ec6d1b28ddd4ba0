"""The outbox on disk keeps what was not delivered, over any end of the process."""

from __future__ import annotations

from pathlib import Path

import pytest
from emit_kit import make_event
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.emit import SpoolOutbox
from monitor.errors import FeaturewatchError


def drain(spool: SpoolOutbox) -> list[str]:
    found = []
    while (event := spool.peek()) is not None:
        found.append(event.event_id)
        spool.advance()
    return found


def test_events_outlive_the_process_and_are_delivered_once_when_it_ends_well(tmp_path: Path) -> None:
    spool = SpoolOutbox(tmp_path / "spool")
    for number in range(4):
        assert spool.put(make_event(number))
    assert spool.peek() == make_event(0)
    spool.advance()
    spool.close()
    again = SpoolOutbox(tmp_path / "spool")
    assert len(again) == 3
    assert drain(again) == ["alert-1", "alert-2", "alert-3"]
    assert (tmp_path / "spool").stat().st_size == 0
    assert len(again) == 0


def test_a_half_written_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    spool = SpoolOutbox(path)
    spool.put(make_event(1))
    spool.close()
    with path.open("ab") as file:
        file.write(b'{"event_id": "half')
    again = SpoolOutbox(path)
    assert again.put(make_event(2))
    assert drain(again) == ["alert-1", "alert-2"]


def test_foreign_lines_and_a_damaged_offset_do_not_stop_delivery(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_text(f"not json\n{make_event(1).line}\n[]\n{make_event(2).line}\n")
    path.with_name("spool.offset").write_text("many")
    assert drain(SpoolOutbox(path)) == ["alert-1", "alert-2"]


def test_it_is_bounded_and_makes_room_for_new_events(tmp_path: Path) -> None:
    size = len(make_event(1).line.encode()) + 1
    spool = SpoolOutbox(tmp_path / "spool", max_bytes=3 * size)
    assert [spool.put(make_event(number)) for number in range(4)] == [True, True, True, False]
    for number in range(4, 9):
        spool.advance()
        assert spool.put(make_event(number))
        assert (tmp_path / "spool").stat().st_size <= 6 * size
    assert drain(spool) == ["alert-6", "alert-7", "alert-8"]


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    SpoolOutbox(tmp_path / "spool").put(make_event(1))
    first = SpoolOutbox(tmp_path / "spool")
    with pytest.raises(FeaturewatchError, match="another process has it open"):
        SpoolOutbox(tmp_path / "spool")
    first.close()
    assert len(SpoolOutbox(tmp_path / "spool")) == 1


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(st.sampled_from(["put", "advance", "restart"]), max_size=40))
def test_nothing_is_lost_or_reordered(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    path = tmp_path_factory.mktemp("spool") / "spool"
    spool, expected, number = SpoolOutbox(path, max_bytes=2000), [], 0
    for step in steps:
        if step == "put":
            number += 1
            if spool.put(make_event(number)):
                expected.append(f"alert-{number}")
        elif step == "advance" and expected:
            spool.advance()
            expected.pop(0)
        elif step == "restart":
            spool.close()
            spool = SpoolOutbox(path, max_bytes=2000)
        assert len(spool) == len(expected)
    assert drain(spool) == expected
    spool.close()
