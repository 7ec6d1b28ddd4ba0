"""The parts of a tap that records rows into a folder, put together once the weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from google.protobuf.json_format import MessageToDict

from monitor.errors import FeaturewatchError
from monitor.sae.row_log import RowLogHeader
from monitor.tap.assembly import make_book
from monitor.tap.log import logger
from monitor.tap.row_log.config import RowLogConfig
from monitor.tap.row_log.encoder import RowEncoder
from monitor.tap.row_log.writer import RowLogWriter
from monitor.tap.runner.adapter import RunnerAdapter
from monitor.tap.self_test import SelfTest
from monitor.tap.sites import Site
from monitor.tap.stats import TapStats
from monitor.tap.tap import Tap
from monitor.v1 import engine_pb2, tap_pb2


def start_row_log(
    adapter: RunnerAdapter, config: RowLogConfig, engine: engine_pb2.EngineInfo, sites: Sequence[Site]
) -> Callable[[SelfTest], None]:
    """Makes the tap; rows, row table and books are those of a tap with a sidecar.

    Returns:
        What to call when the engine begins to serve. It raises FeaturewatchError when the self-test has failed:
        nobody would see that in a heartbeat.
    """
    header = RowLogHeader(
        hook_points=tuple(str(site.hook_point) for site in sites),
        width=engine.hidden_size,
        dtype=str(sites[0].buffer_nd.dtype).removeprefix("torch."),
        engine=MessageToDict(engine, preserving_proto_field_name=True),
    )
    writer = RowLogWriter(config, header)

    def leave() -> None:
        """After repeated failure."""
        adapter.detach()
        for site in sites:
            site.handle.remove()
        writer.fail("the tap detached itself after repeated errors; the engine's log has them")

    stats = TapStats()
    tap = Tap(RowEncoder(sites), make_book(), writer, stats, leave)

    def shut_down() -> None:
        tap.guard(tap.end_all, adapter.outputs)

    def serve(self_test: SelfTest) -> None:
        logger.info("featurewatch: self-test %s", self_test)
        if self_test.outcome == tap_pb2.SelfTest.OUTCOME_FAILED:
            raise FeaturewatchError(
                f"self-test of {', '.join(header.hook_points)} ({self_test.detail})",
                "rows are only recorded where every hook point's operation runs",
                "record other hook points, or another model",
            )
        adapter.attach(tap, shut_down)

    logger.warning(
        "featurewatch: recording rows of %s into %s, at most %d MiB unread; the engine waits for the disk, "
        "this is not for serving",
        ", ".join(header.hook_points),
        config.record_to,
        config.record_mib,
    )
    return serve
