"""The flight recorder against a naive model of it, and with a writer that overtakes its reader."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from monitor.tap.record import Segment
from monitor.tap.recorder.recorder import FlightRecorder, Run, make_recorder
from monitor.tap.recorder.ring import HostRing
from monitor.tap.sites import Site

WIDTH, MAX_ROWS = 3, 12
HOOKS = 2


def _sites(dtype: torch.dtype = torch.bfloat16, width: int = WIDTH, hooks: int = HOOKS) -> list[Site]:
    fired = torch.zeros(1, dtype=torch.int64)
    return [Site(HookPoint(i), torch.zeros(MAX_ROWS, width, dtype=dtype), fired, "", None) for i in range(hooks)]


class OvertakenRing(HostRing):
    """Lets the test write in the middle of a read: between the rows, and behind the last."""

    def __init__(self, sites: list[Site], slots: int) -> None:
        super().__init__(sites, slots)
        self.meanwhile: Callable[[], None] = lambda: None

    def read(self, hook: int, slots_n: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        half = len(slots_n) // 2
        first = super().read(hook, slots_n[:half])
        self.meanwhile()
        rows = np.concatenate([first, super().read(hook, slots_n[half:])])
        self.meanwhile()
        return rows


@dataclass
class Model:
    """What a recorder of `slots` rows should hold: everything that was ever placed and settled."""

    slots: int
    placed: int = 0
    settled: int = 0
    # By handle, in the order of rows: (number, position, bytes per hook point).
    rows: dict[int, list[tuple[int, int, list[bytes]]]] = field(default_factory=dict)

    def there(self, handle: int) -> list[tuple[int, list[bytes]]]:
        rows = self.rows.get(handle, [])
        return [(position, values) for number, position, values in rows if number >= self.placed - self.slots]


class Engine:
    """Forward passes of random rows, settled late, in part, or never."""

    def __init__(self, slots: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.sites = _sites()
        self.ring = OvertakenRing(self.sites, slots)
        self.recorder = FlightRecorder(self.ring, [str(site.hook_point) for site in self.sites], WIDTH, "bfloat16")
        self.model = Model(slots)
        self.next_position: dict[int, int] = {}
        self.waiting: deque[tuple[int, int, list[Segment], npt.NDArray[np.int64] | None, list[list[bytes]]]] = deque()

    def forward(self, parts: list[tuple[int, int, int, int]]) -> None:
        """One pass; each part is a request's: handle (0: unknown), rows, of them recomputed first and rejected last."""
        parts = [(handle, rows, min(again, rows), min(rejected, rows)) for handle, rows, again, rejected in parts]
        total = sum(rows for _, rows, _, _ in parts)
        for site in self.sites:
            bits = self.random.integers(-(2**15), 2**15, (MAX_ROWS, WIDTH)).astype(np.int16)
            site.buffer_nd.view(torch.int16).copy_(torch.from_numpy(bits))
        values = [
            [site.buffer_nd.view(torch.int16)[row].numpy().tobytes() for site in self.sites] for row in range(total)
        ]
        segments, kept, row = [], [], 0
        for handle, rows, again, rejected in parts:
            first, last = row + again, row + rows - rejected
            row += rows
            if handle == 0 or last <= first:
                continue
            # Sometimes positions were skipped: a prefix from the cache, or a gap.
            position = self.next_position.get(handle, 0) + int(self.random.integers(0, 5) == 0) * 7
            segments.append(Segment(handle, position, last - first))
            kept.append(np.arange(first, last))
            self.next_position[handle] = position + last - first
        placed = self.recorder.place(total)
        self.model.placed += total
        whole = np.concatenate(kept) if kept else np.empty(0, np.int64)
        self.waiting.append((placed, total, segments, None if len(whole) == total else whole, values))

    def settle(self) -> None:
        if self.waiting:
            placed, total, segments, kept, values = self.waiting.popleft()
            self.recorder.settle(placed, total, segments, kept)
            rows = iter(range(total) if kept is None else kept)
            for handle, first, length in segments:
                known = self.model.rows.setdefault(handle, [])
                for position in range(first, first + length):
                    row = int(next(rows))
                    known.append((placed + row, position, values[row]))

    def forget(self) -> None:
        """The pass is never settled."""
        if self.waiting:
            _, _, segments, _, _ = self.waiting.popleft()
            for handle, first, _ in segments:
                # As positions of a gap.
                self.next_position[handle] = max(self.next_position[handle], first)


def read_all(recorder: FlightRecorder, handle: int, hook: int) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    start, stop = 0, recorder.settled
    while (run := recorder.find(handle, start, stop)) is not None:
        start = int(run.numbers_n[-1]) + 1
        assert 0 < len(run.numbers_n) <= recorder.most
        part, rows_nb = recorder.read(hook, run)
        assert len(part.numbers_n) == len(rows_nb)
        found.extend((part.first_position + i, row.tobytes()) for i, row in enumerate(rows_nb))
    return found


HANDLES = st.integers(0, 4)
PARTS = st.lists(
    st.tuples(HANDLES, st.integers(1, 4), st.sampled_from([0, 0, 0, 2]), st.sampled_from([0, 0, 1, 3])),
    min_size=1,
    max_size=3,
    unique_by=lambda part: part[0],
)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("forward"), PARTS),
        st.tuples(st.just("forward at once"), PARTS),
        st.tuples(st.just("settle"), st.none()),
        st.tuples(st.just("forget"), st.none()),
        st.tuples(st.just("read"), HANDLES),
        st.tuples(st.just("read overtaken"), HANDLES),
    ),
    min_size=1,
    max_size=60,
)


@given(operations=OPERATIONS, slots=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_what_is_found_is_what_was_written_and_all_that_is_still_there(
    operations: list[tuple[str, object]], slots: int, seed: int
) -> None:
    engine = Engine(slots, seed)
    for name, argument in [*operations, *[("read", handle) for handle in range(5)]]:
        if name == "forward":
            engine.forward(argument)  # type: ignore[arg-type]
        elif name == "forward at once":
            engine.forward(argument)  # type: ignore[arg-type]
            while engine.waiting:
                engine.settle()
        elif name == "settle":
            engine.settle()
        elif name == "forget":
            engine.forget()
        else:
            _check_read(engine, argument, overtaken=name == "read overtaken")  # type: ignore[arg-type]


def _check_read(engine: Engine, handle: int, *, overtaken: bool) -> None:
    def overtake() -> None:
        engine.forward([(handle, 2, 0, 0), (0, 1, 0, 0)])
        while engine.waiting:
            engine.settle()

    for hook in range(HOOKS):
        before = engine.model.there(handle)
        engine.ring.meanwhile = overtake if overtaken and handle else lambda: None
        found = read_all(engine.recorder, handle, hook)
        engine.ring.meanwhile = lambda: None
        after = engine.model.there(handle)
        written = {position: values[hook] for _, position, values in engine.model.rows.get(handle, [])}
        positions = [position for position, _ in found]
        assert positions == sorted(set(positions))
        for position, row in found:
            assert row == written[position], f"position {position} of {handle} is not what was written"
        # What was there throughout is found; what was overwritten before is not.
        surely = {position for position, _ in before} & {position for position, _ in after}
        assert surely <= set(positions) <= {position for position, _ in before}


def test_a_run_has_consecutive_positions_and_fits_into_a_message() -> None:
    sites = _sites(torch.float32, width=30_000, hooks=1)
    recorder = make_recorder(sites, 8)
    assert recorder is not None
    assert recorder.most == 2
    recorder.settle(recorder.place(6), 6, [Segment(7, 0, 3), Segment(7, 10, 3)], None)
    runs, start = [], 0
    while (run := recorder.find(7, start, recorder.settled)) is not None:
        runs.append((run.first_position, len(run.numbers_n)))
        start = int(run.numbers_n[-1]) + 1
    assert runs == [(0, 2), (2, 1), (10, 2), (12, 1)]


def test_of_a_pass_larger_than_the_ring_the_last_rows_stay() -> None:
    engine = Engine(5, 0)
    engine.forward([(1, 4, 0, 0), (2, 4, 0, 0), (3, 4, 0, 0)])
    engine.settle()
    assert [len(read_all(engine.recorder, handle, 0)) for handle in (1, 2, 3)] == [0, 1, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_keep_the_engines_dtype(dtype: torch.dtype) -> None:
    sites = _sites(dtype)
    for site in sites:
        site.buffer_nd.copy_(torch.randn(MAX_ROWS, WIDTH))
    recorder = make_recorder(sites, 1)
    assert recorder is not None
    recorder.settle(recorder.place(4), 4, [Segment(1, 0, 4)], None)
    _, rows_nb = recorder.read(1, Run(0, np.arange(4)))
    assert recorder.dtype == str(dtype).removeprefix("torch.")
    assert torch.equal(
        torch.frombuffer(bytearray(rows_nb.tobytes()), dtype=dtype).view(4, WIDTH), sites[1].buffer_nd[:4]
    )


def test_memory_is_within_the_setting_and_zero_is_off() -> None:
    sites = _sites(torch.float32, width=576)
    recorder = make_recorder(sites, 3)
    assert recorder is not None
    assert recorder.nbytes <= 3 << 20 < recorder.nbytes + 2 * 576 * 4 + 8
    assert recorder.rows == (3 << 20) // (2 * 576 * 4 + 8)
    assert make_recorder(sites, 0) is None


def test_a_setting_that_holds_not_one_row_is_refused() -> None:
    with pytest.raises(FeaturewatchError, match="recorder_mib 1 for 2 hook points with rows of 1200000 bytes"):
        make_recorder(_sites(torch.float32, width=300_000), 1)


def test_a_writer_in_another_thread_tears_no_row() -> None:
    """Every row consists of its own number, and the ring turns many times while it is read."""
    width, slots, passes = 600, 64, 20_000
    sites = [Site(HookPoint(0), torch.zeros(8, width), torch.zeros(1, dtype=torch.int64), "", None)]
    recorder = FlightRecorder(HostRing(sites, slots), ["resid_post.0"], width, "float32")
    rows_nd, numbers_n = sites[0].buffer_nd.numpy(), np.arange(8, dtype=np.float32)[:, None]

    def write() -> None:
        recorder.begin(1)
        for step in range(passes):
            rows_nd[:] = numbers_n + 8 * step
            recorder.settle(recorder.place(8), 8, [Segment(1, 8 * step, 8)], None)
        recorder.end(1)

    writer = threading.Thread(target=write)
    writer.start()
    read = start = 0
    live = True
    while live:
        live = writer.is_alive()
        stop = recorder.settled
        while (run := recorder.find(1, start, stop)) is not None:
            start = int(run.numbers_n[-1]) + 1
            part, rows_nb = recorder.read(0, run)
            values_nd = rows_nb.copy().view(np.float32)
            assert (values_nd == values_nd[:, :1]).all(), "a torn row"
            assert values_nd[:, 0].tolist() == list(range(part.first_position, part.first_position + len(values_nd)))
            read += len(values_nd)
    writer.join()
    assert read >= slots
    assert not recorder.live(1)
