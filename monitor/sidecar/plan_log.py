"""What a tap watches, for whom, and what it cannot serve, in the log."""

from __future__ import annotations

import logging

from monitor.sidecar.plan import TapPlan, model_name
from monitor.v1.tap_pb2 import Hello

_log = logging.getLogger(__name__)


def log_plan(hello: Hello, plan: TapPlan) -> None:
    """`plan` is of the newest edition of the policies on the tap that said `hello`."""
    engine = hello.engine
    _log.info(
        "tap %s: %s %s, model %s, hook points %s: watching %d directions for %s",
        hello.tap_id,
        engine.name,
        engine.version,
        model_name(engine),
        ", ".join(hello.hook_points) or "none",
        len(plan.policies.directions),
        ", ".join(plan.served) or "no policy",
    )
    for line in plan.unserved.values():
        _log.warning("tap %s: not served: %s", hello.tap_id, line)
    if plan.capturing and not (hello.memory.recorder_rows and plan.dictionaries):
        lacks = "no policy names an SAE" if hello.memory.recorder_rows else "the tap's flight recorder is off"
        rules = ", ".join(sorted("/".join(name) for name in plan.capturing))
        _log.warning("tap %s: rules %s ask for captures, but %s", hello.tap_id, rules, lacks)
    for name, served in plan.served.items():
        if served.reason:
            _log.warning("tap %s: policy %s is in shadow mode: %s", hello.tap_id, name, served.reason)
