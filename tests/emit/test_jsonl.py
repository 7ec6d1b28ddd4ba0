"""The file of alerts: private, whole lines only, refused at the start when it cannot be written."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from emit_kit import make_event

from monitor.emit import JsonlSink, SinkError
from monitor.errors import FeaturewatchError


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
async def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    sink = JsonlSink(path)
    assert not path.exists(), "it appears with the first alert"
    await sink.deliver(make_event())
    assert path.stat().st_mode & 0o777 == 0o600
    await sink.close()


@pytest.mark.parametrize("place", ["/proc/nowhere/alerts.jsonl", "/proc/version", "/"])
def test_a_file_that_cannot_be_written_is_refused_at_the_start(place: str) -> None:
    with pytest.raises(FeaturewatchError, match=rf"alerts file {place} \(.+\): it must be .* --alerts-jsonl"):
        JsonlSink(Path(place))


async def test_a_named_pipe_is_refused_without_a_reader_and_written_with_one(tmp_path: Path) -> None:
    pipe = tmp_path / "alerts.pipe"
    os.mkfifo(pipe)
    with pytest.raises(FeaturewatchError, match=r"alerts.pipe \(No such device or address\)"):
        JsonlSink(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        sink = JsonlSink(pipe)
        await sink.deliver(make_event())
        assert os.read(reader, 100_000).decode() == make_event().line + "\n"
        await sink.close()
    finally:
        os.close(reader)


async def test_a_line_cut_short_is_taken_back_before_the_next_try(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    first, second = make_event(1), make_event(2)
    sink = JsonlSink(path)
    await sink.deliver(first)
    # A limit on the file's size cuts a write short as a full disk does.
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(SinkError, match="only 10 of"):
            await sink.deliver(second)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    await sink.deliver(second)
    assert path.read_text() == f"{first.line}\n{second.line}\n"
    await sink.close()


async def test_busy_threads_of_others_do_not_hold_up_an_alert(tmp_path: Path) -> None:
    path, gate = tmp_path / "alerts.jsonl", threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=1))
    busy = asyncio.create_task(asyncio.to_thread(gate.wait, 60))
    await asyncio.sleep(0)
    sink = JsonlSink(path)
    try:
        await asyncio.wait_for(sink.deliver(make_event()), 30)
        assert path.read_text() == make_event().line + "\n"
        assert not busy.done()
    finally:
        gate.set()
        await busy
        await sink.close()
