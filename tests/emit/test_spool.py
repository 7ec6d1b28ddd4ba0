"""The outbox on disk keeps what was not delivered, over any end of the process."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
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


def test_a_spool_that_cannot_make_room_says_so_as_any_disk_does(tmp_path: Path) -> None:
    path, size = tmp_path / "spool", len(make_event(1).line.encode()) + 1
    spool = SpoolOutbox(path, max_bytes=2 * size)
    spool.put(make_event(1))
    for number in (2, 3, 4):
        spool.put(make_event(number))
        spool.advance()
    with path.with_name("spool.new").open("wb") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="temporarily unavailable"):
            spool.put(make_event(5))
    assert drain(spool) == ["alert-4"]


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


def test_an_offset_of_another_time_loses_no_event(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_text(f"{make_event(1).line}\n")
    for stale in ("7", "100000"):
        path.with_name("spool.offset").write_text(stale)
        spool = SpoolOutbox(path)
        assert [spool.peek(), len(spool)] == [make_event(1), 1]
        # What is on disk must be right as well: the next events lie where the stale offset would hide them.
        assert path.with_name("spool.offset").read_text() == "0"
        spool.close()


def test_the_offset_is_reset_before_the_delivered_events_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "spool"
    spool = SpoolOutbox(path)
    spool.put(make_event(1))
    spool.put(make_event(2))
    spool.advance()

    def full_disk(offset: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(spool, "_store_offset", full_disk)
        with pytest.raises(OSError, match="No space"):
            spool.advance()
    assert path.read_text().count("\n") == 2
    assert drain(spool) == ["alert-2"]
    assert path.with_name("spool.offset").read_text() == "0"


@pytest.mark.parametrize(("kept", "left"), [(0, []), (1, []), (2, ["alert-2"])])
def test_a_spool_cut_off_from_outside_goes_on(tmp_path: Path, kept: int, left: list[str]) -> None:
    path, size = tmp_path / "spool", len(make_event(1).line.encode()) + 1
    for then_put in (False, True):
        spool = SpoolOutbox(path)
        for number in (1, 2, 3):
            spool.put(make_event(number))
        spool.advance()
        os.truncate(path, kept * size + (20 if kept else 0))
        if then_put:
            assert spool.put(make_event(4))
        assert drain(spool) == left + ["alert-4"] * then_put
        assert len(spool) == 0
        spool.advance()
        spool.close()


def test_a_cut_during_a_delivery_does_not_pass_over_the_next_event(tmp_path: Path) -> None:
    spool = SpoolOutbox(tmp_path / "spool")
    spool.put(make_event(1))
    assert spool.peek() == make_event(1)
    os.truncate(tmp_path / "spool", 0)
    spool.put(make_event(2))
    spool.advance()
    assert drain(spool) == ["alert-2"]


def test_a_full_disk_leaves_no_fragment(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    spool = SpoolOutbox(path)
    spool.put(make_event(1))
    # A limit on the file's size cuts a write short as a full disk does.
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="only 10 of"):
            spool.put(make_event(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == make_event(1).line + "\n"
    assert spool.put(make_event(3))
    assert drain(spool) == ["alert-1", "alert-3"]


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    size = len(make_event(1).line.encode()) + 1
    before = os.umask(0)
    try:
        spool = SpoolOutbox(tmp_path / "spool", max_bytes=2 * size)
        for number in range(6):
            assert spool.put(make_event(number))
            modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
            assert modes == {0o600}
            if number:
                spool.advance()
    finally:
        os.umask(before)


@pytest.mark.parametrize("place", ["/proc/nowhere/spool", "/proc/version", "/proc"])
def test_a_spool_that_cannot_be_written_is_refused_readably(place: str) -> None:
    with pytest.raises(FeaturewatchError, match=rf"spool file {place} \(.+\): it must be .* --spool"):
        SpoolOutbox(Path(place))
