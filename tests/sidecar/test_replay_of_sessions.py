"""Generations that a real sidecar recorded, judged again: what was live fires exactly as recorded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
from fake_tap import Rows, begin, connect, end
from sidecar_kit import LOUD, World, channel_to, running_sidecar
from typer.testing import CliRunner, Result

from monitor.audit import AuditStore
from monitor.cli.audit_reader import StoreReader
from monitor.cli.policy import app
from monitor.cli.policy.recorded import circumstances_of
from monitor.replay import read_record, rejudge
from monitor.replay.shelf import Shelf
from monitor.v1.tap_pb2 import Gap, GapReason

# Aggregates of several kinds, persistence, phases: the whole way from activations to alerts.
SMOOTH = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: smooth, revision: 1}
spec:
  mode: alert
  detectors:
    - id: ema
      source: {denseProbe: {file: weights/loud.dense.safetensors}}
      aggregate: {kind: ema, halfLife: 3, minTokens: 2, skip: [bos]}
      threshold: {warn: 0.5, fire: 1, clear: 0.7}
    - id: mean
      source: {saeLatents: {sae: tiny/resid_post.5, latents: [{index: 1, weight: 0.3}]}}
      aggregate: {kind: rolling_mean, window: 4, then: max}
      threshold: {fire: 1}
  rules:
    - {id: SMOOTH-001, when: ema.fire and not mean.fire, for: 2 tokens, severity: high}
    - {id: SMOOTH-002, when: ema.warn or mean.fire, for: 3 tokens, severity: low}
    - {id: SMOOTH-003, when: not ema.clear and mean.clear, severity: informational}
"""
SINCE = ("--since", "2023-01-01")


def run(*arguments: Path | str) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})


async def serve(world: World, requests: int) -> None:
    """Requests with random scores, cut into frames anyhow; every third with a hole."""
    rng = np.random.default_rng(3)
    async with channel_to(world.socket) as channel:
        tap = await connect(channel)
        for handle in range(1, requests + 1):
            scores = rng.normal(0.4, 1.2, (20, 3)).round(2)
            frames = [tap.frame(begins=[begin(handle, (0, 1, 2, 3))])]
            at = 0
            while at < len(scores):
                size = int(rng.integers(1, 6))
                part = scores[at : at + size]
                dense, explosives, late = (tuple(column.tolist()) for column in part.T)
                if handle % 3 == 0 and 6 <= at < 12:
                    gap = Gap(handle=handle, first_position=at, count=len(part), reason=GapReason.GAP_REASON_QUEUE_FULL)
                    frames.append(tap.frame(gaps=[gap]))
                else:
                    tokens = tuple((at + k) % 8 for k in range(len(part)))
                    frames.append(tap.frame([Rows(handle, at, tokens, dense, explosives, late)]))
                at += len(part)
            await tap.send(*frames, tap.frame(ends=[end(handle, len(scores))]))


async def test_what_was_live_fires_exactly_as_recorded(world: World) -> None:
    (world.policies / "smooth.yaml").write_text(SMOOTH)
    async with running_sidecar(world.config()):
        await serve(world, 12)
    store = AuditStore(world.folder / "audit.sqlite", read_only=True)
    fired, shelf = set(), Shelf()
    for record in StoreReader(store).since(0):
        recorded = read_record(record, circumstances_of(record), shelf)
        assert recorded.incomplete == {}
        assert set(recorded.policies) == {"loud", "quiet", "smooth"}
        for policy in recorded.policies.values():
            again = rejudge(policy, recorded, {})
            replayed = [(one.rule.id, one.position, int(again.mode)) for one in again.firings]
            alerts = [alert for alert in record.alerts if alert.policy == policy.name]
            assert replayed == [(alert.rule, alert.position, alert.mode) for alert in alerts]
            fired |= {alert.rule for alert in alerts}
            assert again.judgement is not None
            column = [
                list(record.score_columns).index(f"{policy.name}/{one.id}") for one in policy.document.spec.detectors
            ]
            seen = recorded.observed_p
            np.testing.assert_array_equal(
                again.judgement.scores_nd[seen].astype(np.float32),
                recorded.scores_pd[:, column][seen].astype(np.float32),
            )
    assert fired >= {"SMOOTH-001", "SMOOTH-002", "SMOOTH-003", "LOUD-001"}


async def test_the_commands_read_the_store_and_the_sidecar(world: World) -> None:
    async with running_sidecar(world.config()):
        await serve(world, 4)
        address = f"unix:{world.socket}"
        live = await asyncio.to_thread(
            run, "replay", world.policies, "--zoo", world.zoo, *SINCE, "--json", "--sidecar", address
        )
        told = await asyncio.to_thread(run, "explain", "req-1", "--sidecar", address)
    store = ("--store", world.folder / "audit.sqlite")
    assert live.exit_code == 0, live.output
    stored = run("replay", world.policies, "--zoo", world.zoo, *SINCE, "--json", *store)
    assert json.loads(stored.stdout) == json.loads(live.stdout)
    loud, quiet = json.loads(stored.stdout)["policies"]
    assert (loud["policy"], quiet["policy"]) == ("loud", "quiet")
    for report in (loud, quiet):
        assert (report["notReplayed"], report["newlyFlagged"], report["noLongerFlagged"]) == ({}, [], [])
        assert report["replayed"] == report["generations"] > 0
    assert told.exit_code == 0, told.output
    assert run("explain", "req-1", *store).stdout == told.stdout
    assert "policy loud revision 2, as it judged generation" in told.stdout
    assert "dense.fire ✓" in told.stdout
    assert "FIRES (high, alert)" in told.stdout


async def test_another_policy_is_replayed_and_compared(world: World) -> None:
    async with running_sidecar(world.config()):
        await serve(world, 4)
    store = ("--store", world.folder / "audit.sqlite")
    stricter = world.policies / "stricter.yaml"
    stricter.write_text(
        LOUD.replace("fire: 2, clear: 0.5", "fire: 99, clear: 99").replace("revision: 2", "revision: 3")
    )
    told = run("replay", stricter, "--zoo", world.zoo, *SINCE, "--diff", "live", *store)
    assert told.exit_code == 0, told.output
    assert "would have fired on: 0" in told.stdout
    assert "no longer flagged: " in told.stdout
    assert "Only recorded generations can be replayed" in told.stdout
    explained = run("explain", "req-1", "--policy", stricter, "--zoo", world.zoo, "--json", *store)
    (summary,) = json.loads(explained.stdout)
    assert (summary["policy"], summary["revision"], summary["recorded"]) == ("loud", 3, False)
    assert not any(token["rules"]["LOUD-001"]["fires"] for token in summary["tokens"])
    elsewhere = run("replay", stricter, "--zoo", world.folder / "nothing", *SINCE, "--json", *store)
    why: dict[str, Any] = json.loads(elsewhere.stdout)["policies"][0]["notReplayed"]
    assert list(why) == ["sae tiny/resid_post.3 cannot be read, so it cannot be compared with the recorded one"]


async def test_what_cannot_be_explained_is_refused(world: World) -> None:
    async with running_sidecar(world.config()):
        await serve(world, 1)
    store = ("--store", world.folder / "audit.sqlite")
    for arguments, rule in (
        (("explain", "req-1", "--rule", "NONE"), "it was judged by LOUD-001, QUIET-001"),
        (("replay", world.policies, "--since", "soon"), "it is a time ago such as"),
    ):
        error = run(*arguments, *store).exception
        assert rule in str(error)


async def test_a_file_is_compared_with_what_the_sidecar_has_loaded(world: World) -> None:
    changed = world.folder / "changed.yaml"
    changed.write_text(LOUD.replace("fire: 2,", "fire: 3,"))
    async with running_sidecar(world.config()):
        address = ("--sidecar", f"unix:{world.socket}")
        same = await asyncio.to_thread(run, "diff", world.policies / "loud.yaml", "live", *address)
        other = await asyncio.to_thread(run, "diff", "live", changed, *address)
        (world.folder / "next").mkdir()
        changed.rename(world.folder / "next" / "loud.yaml")
        (world.folder / "next" / "quiet.yaml").write_text((world.policies / "quiet.yaml").read_text())
        folder = await asyncio.to_thread(run, "diff", "live", world.folder / "next", *address)
    assert folder.stdout.count("  the same") == 1
    assert f"- quiet revision 1  live {world.policies}/quiet.yaml" in folder.stdout
    assert "less  detectors[dense].threshold.fire: 2.0 → 3.0" in folder.stdout
    assert (same.exit_code, same.stdout.splitlines()[-1]) == (0, "They mean the same.")
    assert other.exit_code == 1
    assert "less  detectors[dense].threshold.fire: 2.0 → 3.0  LOUD-001 can fire on fewer generations" in other.stdout
