"""Correlations of generations that a real sidecar recorded, replayed."""

from __future__ import annotations

import json
from pathlib import Path

from correlated_world import REPEATED, correlated_policy, flag_for, write_policy
from fake_tap import connect
from sidecar_kit import World, channel_to, running_sidecar
from typer.testing import CliRunner, Result

from monitor.cli.policy import app


def replay(world: World, policy: Path, *options: str) -> Result:
    arguments = ("replay", policy, "--zoo", world.zoo, "--since", "2023-01-01", "--diff", "live", *options)
    store = ("--store", world.folder / "audit.sqlite")
    return CliRunner().invoke(app, [*map(str, (*arguments, *store))], env={"COLUMNS": "200", "NO_COLOR": "1"})


async def test_what_was_completed_live_is_completed_again_and_another_policy_compared(world: World) -> None:
    by_tap = "{id: LOUD-TAP, kind: count, rules: [LOUD-001], groupBy: [tap], within: 10m, atLeast: 5, severity: low}"
    write_policy(world, correlated_policy(correlation=f"{REPEATED}\n    - {by_tap}"))
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        for handle in range(1, 5):
            await flag_for(tap, handle, "acme")
            await flag_for(tap, 10 + handle, "umbrella")
        await flag_for(tap, 5, "acme")
        await flag_for(tap, 6, "acme")
    same = json.loads(replay(world, world.policies / "loud.yaml", "--json").stdout)
    (report,) = same["policies"]
    outcome = report["correlations"]["LOUD-REPEATED"]
    assert len(outcome["fired"]) == 1
    assert outcome["fired"] == outcome["recorded"]
    assert (outcome["newly"], outcome["noLonger"], outcome["severity"]) == ([], [], "critical")
    assert report["severities"]["critical"] == outcome["fired"]
    assert list(report["notReplayedCorrelations"]) == ["LOUD-TAP"]
    assert "counting began anew" in same["limits"]
    looser = world.policies / "looser.yaml"
    text = correlated_policy(correlation=REPEATED.replace("atLeast: 5", "atLeast: 4"))
    looser.write_text(text.replace("revision: 2", "revision: 3"))
    told = replay(world, looser)
    assert told.exit_code == 0, told.output
    assert "    LOUD-REPEATED: 2, correlation" in told.stdout
    assert "    LOUD-REPEATED fires anew on 2: " in told.stdout
    assert "    LOUD-REPEATED no longer fires on 1: " in told.stdout
    assert "    LOUD-TAP: not replayable: it groups by tap" not in told.stdout
    assert "Correlations count what fires on the replayed generations" in told.stdout
    assert "    LOUD-TAP: not replayable: it groups by tap" in replay(world, world.policies / "loud.yaml").stdout
