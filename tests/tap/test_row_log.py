"""A tap that records rows into a folder: whole steps, in the engine's dtype, or a recording that has visibly ended."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from monitor.sae.row_log import FAILED, RequestEnd, RowLogHeader, RowRun, step_numbers, step_path
from monitor.tap.book import RequestBook
from monitor.tap.config import read_config
from monitor.tap.external_id import external_id
from monitor.tap.fired import HooksSilentError
from monitor.tap.record import PREFIX_CACHE, TAP_ERROR, Begin, End, Gap, KeptRows, NewRequest, RowTable, Segment, Step
from monitor.tap.refusals import refuse_holes
from monitor.tap.row_log.assembly import start_row_log
from monitor.tap.row_log.config import RowLogConfig
from monitor.tap.row_log.encoder import RowEncoder
from monitor.tap.row_log.writer import RowLogError, RowLogWriter, claim_folder
from monitor.tap.self_test import SelfTest
from monitor.tap.stats import TapStats
from monitor.tap.tap import DETACH_AFTER_ERRORS, Tap
from monitor.v1 import tap_pb2
from monitor.v1.engine_pb2 import EngineInfo
from training.harvest.row_log import RowLogReader

POINTS = ("resid_post.1", "resid_post.3")
WIDTH = 6
GOOD: dict[str, Any] = {"record_to": "/var/tmp/rows", "hook_points": ["resid_post.3", "resid_post.1"]}


def _config(folder: Path, mib: int = 8) -> RowLogConfig:
    return RowLogConfig(folder, (HookPoint(1), HookPoint(3)), record_mib=mib)


def _sites(dtype: torch.dtype, rows: int = 32, width: int = WIDTH) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [
        SimpleNamespace(
            hook_point=HookPoint.parse(name),
            buffer_nd=torch.randn(rows, width, generator=generator).to(dtype),
            fired=torch.zeros(1, dtype=torch.int64),
        )
        for name in POINTS
    ]


def _writer(folder: Path, dtype: torch.dtype = torch.float32, *, mib: int = 8, width: int = WIDTH) -> RowLogWriter:
    claim_folder(_config(folder))
    header = RowLogHeader(POINTS, width, str(dtype).removeprefix("torch."), {"name": "vllm", "device": "cpu"})
    return RowLogWriter(_config(folder, mib), header)


def _pass(encoder: RowEncoder, sites: list[Any], rows: int, first_token: int = 100) -> Any:
    """What the encoder makes of one forward pass."""
    encoder.mark()
    for site in sites:
        site.fired += 1
    return encoder.encode(None, torch.arange(first_token, first_token + 40), rows)


def _begin(handle: int = 1, name: str = "a") -> Begin:
    return Begin(handle, f"{name}-0a1b2c3d", name, b"", 0, "")


@contextmanager
def _no_file_above(size: int) -> Iterator[None]:
    """The system refuses to write larger files, as a full disk does: with an OSError amid the write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_settings_come_from_the_key_or_the_environment() -> None:
    by_key = read_config({"featurewatch": GOOD | {"record_mib": 7}}, {"FEATUREWATCH_SIDECAR": "ignored:1"})
    assert by_key == RowLogConfig(Path("/var/tmp/rows"), (HookPoint(1), HookPoint(3)), record_mib=7)
    environ = {"FEATUREWATCH_RECORD_TO": "/var/tmp/rows", "FEATUREWATCH_HOOK_POINTS": "resid_post.1,resid_post.3"}
    assert read_config({}, environ) == RowLogConfig(Path("/var/tmp/rows"), (HookPoint(1), HookPoint(3)))


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (GOOD | {"sidecar": "unix:/run/fw.sock"}, ["beside sidecar", "tells no sidecar", "Remove record_to to serve"]),
        (GOOD | {"recorder_mib": 0}, ["beside recorder_mib"]),
        (GOOD | {"record_to": "rows"}, ["record_to 'rows'", "absolute path"]),
        (GOOD | {"record_to": 3}, ["record_to 3"]),
        (GOOD | {"record_mib": 0}, ["record_mib 0", "The default is 1024"]),
        (GOOD | {"hook_points": ["resid_pre.3"]}, ["'resid_pre.3'", "resid_post.2"]),
        (GOOD | {"allow_unproven_engine": 1}, ["allow_unproven_engine 1"]),
        ({"record_to": "/var/tmp/rows"}, ["without hook_points", "needs record_to and hook_points"]),
        ({"sidecar": "unix:/x", "hook_points": ["resid_post.1"], "record_mib": 5}, ["record_mib 5 without record_to"]),
    ],
)
def test_a_bad_setting_is_named(settings: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(FeaturewatchError) as caught:
        read_config({"featurewatch": settings}, {})
    for part in parts:
        assert part in str(caught.value)


def test_both_in_the_environment_are_refused() -> None:
    environ = {
        "FEATUREWATCH_RECORD_TO": "/r",
        "FEATUREWATCH_SIDECAR": "a:1",
        "FEATUREWATCH_HOOK_POINTS": "resid_post.1",
    }
    with pytest.raises(FeaturewatchError, match="beside sidecar"):
        read_config({}, environ)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"enable_prefix_caching": True}, "--no-enable-prefix-caching"),
        ({"kv_transfer_config": object()}, "KV connector"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size 2"),
        ({"data_parallel_size": 2}, "data_parallel_size 2"),
    ],
)
def test_engines_that_would_leave_holes_are_refused(changes: dict[str, Any], says: str) -> None:
    def engine(**changes: Any) -> SimpleNamespace:
        parallel = {"pipeline_parallel_size": 1, "data_parallel_size": 1, "tensor_parallel_size": 2}
        return SimpleNamespace(
            cache_config=SimpleNamespace(enable_prefix_caching=changes.get("enable_prefix_caching", False)),
            kv_transfer_config=changes.get("kv_transfer_config"),
            parallel_config=SimpleNamespace(**{name: changes.get(name, size) for name, size in parallel.items()}),
        )

    refuse_holes(engine())
    with pytest.raises(FeaturewatchError, match=says):
        refuse_holes(engine(**changes))


def test_a_folder_with_something_in_it_is_refused_and_a_new_one_is_private(tmp_path: Path) -> None:
    claim_folder(_config(tmp_path / "deep" / "rows"))
    assert (tmp_path / "deep" / "rows").stat().st_mode & 0o077 == 0
    (tmp_path / "deep" / "rows" / "old").touch()
    with pytest.raises(FeaturewatchError, match="which holds old"):
        claim_folder(_config(tmp_path / "deep" / "rows"))
    (tmp_path / "file").touch()
    with pytest.raises(FeaturewatchError, match="must be a folder that may be made"):
        claim_folder(_config(tmp_path / "file" / "rows"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_read_back_bit_for_bit_with_their_names(tmp_path: Path, dtype: torch.dtype) -> None:
    sites = _sites(dtype)
    encoder, writer = RowEncoder(sites), _writer(tmp_path / "rows", dtype)
    before = [site.buffer_nd.clone() for site in sites]
    payload = _pass(encoder, sites, 10)
    for site in sites:
        site.buffer_nd.zero_()  # as the next pass does
    kept = np.array([0, 1, 2, 6, 7])
    writer.offer(Step(0, begins=[_begin(1, "a"), _begin(2, "b")]))
    segments = [Segment(1, 0, 3), Segment(2, 4, 2)]
    writer.offer(Step(0, segments=segments, payload=KeptRows(payload, kept, 10)))
    writer.offer(Step(0, ends=[End(1, 3, b"", 0)]))
    reader = RowLogReader(tmp_path / "rows")
    assert (reader.header.dtype, reader.header.engine["name"]) == (str(dtype).removeprefix("torch."), "vllm")
    first, second = reader.read()
    assert (first.run, second.run) == (RowRun("a-0a1b2c3d", "a", 0, 3), RowRun("b-0a1b2c3d", "b", 4, 2))
    assert first.token_ids_n.tolist() + second.token_ids_n.tolist() == [100, 101, 102, 106, 107]
    for name, expected_nd in zip(POINTS, before, strict=True):
        assert torch.equal(torch.cat([first.rows_nd[name], second.rows_nd[name]]), expected_nd[kept])
    assert step_numbers(tmp_path / "rows") == []  # what was read is removed
    assert list(reader.read()) == []


def test_a_tap_records_what_its_book_keeps_and_ends_requests(tmp_path: Path) -> None:
    """The whole path behind the runner adapter: recomputed rows are not recorded a second time."""
    sites, writer = _sites(torch.float32), _writer(tmp_path / "rows")
    tap = Tap(RowEncoder(sites), RequestBook(external_id), writer, TapStats(), lambda: None)

    def step(first: int, rows: int) -> None:
        tap.between_steps([], [])
        for site in sites:
            site.fired += 1
        tap.after_forward(
            RowTable(
                ["q-0a1b2c3d"], np.array([0, rows], np.int32), np.array([first], np.int32), torch.arange(40) + first
            )
        )

    assert tap.guard(tap.between_steps, [], [NewRequest("q-0a1b2c3d", list(range(7)))])
    step(0, 4)
    step(0, 6)
    tap.end_all(lambda request_id: ())
    runs = list(RowLogReader(tmp_path / "rows").read())
    assert [run.run[2:] for run in runs] == [(0, 4), (4, 2)]
    assert torch.equal(runs[1].rows_nd[POINTS[0]], sites[0].buffer_nd[4:6])
    assert runs[1].token_ids_n.tolist() == [4, 5]


def test_the_end_of_a_request_is_told(tmp_path: Path) -> None:
    writer = _writer(tmp_path / "rows")
    writer.offer(Step(0, begins=[_begin()], ends=[End(1, 0, b"", 0)]))
    record, tensors = RowLogReader(tmp_path / "rows")._load(step_path(tmp_path / "rows", 0))
    assert record.ends == (RequestEnd("a-0a1b2c3d", "a", 0),)
    assert tensors[POINTS[0]].shape == (0, WIDTH)


def test_a_failed_self_test_refuses_the_start_and_a_tap_that_leaves_says_so(tmp_path: Path) -> None:
    sites = _sites(torch.float32)
    done: list[Any] = []
    for site in sites:
        site.handle = SimpleNamespace(remove=lambda: done.append("hook removed"))
    adapter: Any = SimpleNamespace(
        attach=lambda tap, shut_down: done.append(tap), detach=lambda: done.append("detached"), outputs=lambda name: ()
    )
    claim_folder(_config(tmp_path / "rows"))
    serve = start_row_log(adapter, _config(tmp_path / "rows"), EngineInfo(name="vllm", hidden_size=WIDTH), sites)
    with pytest.raises(FeaturewatchError, match=r"self-test of resid_post\.1, resid_post\.3 \(silent\)"):
        serve(SelfTest(tap_pb2.SelfTest.OUTCOME_FAILED, "silent"))
    assert done == []
    serve(SelfTest(tap_pb2.SelfTest.OUTCOME_NOT_RUN, "several workers"))
    (tap,) = done

    def broken() -> None:
        raise RuntimeError("the row table cannot be read")

    for _ in range(DETACH_AFTER_ERRORS):
        tap.guard(broken)
    assert done[1:] == ["detached", "hook removed", "hook removed"]
    with pytest.raises(FeaturewatchError, match="the tap detached itself"):
        list(RowLogReader(tmp_path / "rows").read())


def _lossy_steps(sites: list[Any]) -> dict[str, Step]:
    silent = RowEncoder(sites)
    silent.mark()
    return {
        r"request a: no rows of 5 positions from 0 on \(PREFIX_CACHE\)": Step(0, gaps=[Gap(1, 0, 5, PREFIX_CACHE)]),
        r"request a: no rows of 2 positions from 3 on \(TAP_ERROR\)": Step(
            0, segments=[Segment(1, 3, 2)], missing_because=TAP_ERROR
        ),
        "HooksSilentError: hook points resid_post.1, resid_post.3 did not run": Step(
            0, segments=[Segment(1, 0, 2)], payload=silent.encode(None, torch.arange(9), 2)
        ),
    }


@pytest.mark.parametrize("case", range(3))
def test_a_lost_row_ends_the_recording_for_good(tmp_path: Path, case: int) -> None:
    sites = _sites(torch.float32)
    says, lossy = list(_lossy_steps(sites).items())[case]
    writer, encoder = _writer(tmp_path / "rows"), RowEncoder(sites)
    writer.offer(Step(0, begins=[_begin()]))
    with pytest.raises((RowLogError, HooksSilentError)):
        writer.offer(lossy)
    writer.offer(Step(0, segments=[Segment(1, 0, 4)], payload=_pass(encoder, sites, 4)))
    assert step_numbers(tmp_path / "rows") == []
    with pytest.raises(FeaturewatchError, match=f"ended before step 0: {says}"):
        list(RowLogReader(tmp_path / "rows").read())


def test_rows_that_nobody_reads_fill_no_disk(tmp_path: Path) -> None:
    sites = _sites(torch.float32, rows=32, width=4096)
    writer, encoder = _writer(tmp_path / "rows", mib=2, width=4096), RowEncoder(sites)
    writer.offer(Step(0, begins=[_begin()]))
    writer.offer(Step(0, segments=[Segment(1, 0, 32)], payload=_pass(encoder, sites, 32)))
    reader = RowLogReader(tmp_path / "rows")
    assert len(list(reader.read())) == 1
    writer.offer(Step(0, segments=[Segment(1, 32, 32)], payload=_pass(encoder, sites, 32)))
    with pytest.raises(RowLogError, match="bytes of steps wait in the folder, and record_mib is 2"):
        writer.offer(Step(0, segments=[Segment(1, 64, 32)], payload=_pass(encoder, sites, 32)))
    with pytest.raises(FeaturewatchError, match="raise record_mib"):
        list(reader.read())


def test_a_full_disk_ends_the_recording_and_leaves_no_half_a_step(tmp_path: Path) -> None:
    sites = _sites(torch.float32, width=4096)
    writer, encoder = _writer(tmp_path / "rows", width=4096), RowEncoder(sites)
    writer.offer(Step(0, begins=[_begin()]))
    with _no_file_above(1 << 16), pytest.raises(OSError, match="File too large"):
        writer.offer(Step(0, segments=[Segment(1, 0, 20)], payload=_pass(encoder, sites, 20)))
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == [FAILED, "record.json"]
    with pytest.raises(FeaturewatchError, match=r"ended before step 0: OSError: .*File too large"):
        list(RowLogReader(tmp_path / "rows").read())


def test_a_folder_that_was_taken_away_ends_the_recording(tmp_path: Path) -> None:
    sites = _sites(torch.float32)
    writer, encoder = _writer(tmp_path / "rows"), RowEncoder(sites)
    shutil.rmtree(tmp_path / "rows")
    writer.offer(Step(0, begins=[_begin()]))
    with pytest.raises(FileNotFoundError):
        writer.offer(Step(0, segments=[Segment(1, 0, 2)], payload=_pass(encoder, sites, 2)))
    assert writer.failed
