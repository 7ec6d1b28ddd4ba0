"""`featurewatch policy status | mode | reload | history`, against a real sidecar."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fake_tap import connect
from session_calls import flag
from sidecar_kit import LOUD, World, channel_to, running_sidecar
from support.command import Command

from monitor.cli.policy.status import status_remarks
from monitor.cli.since import parse_since
from monitor.errors import FeaturewatchError
from monitor.policy import Mode as PolicyMode
from monitor.sidecar.modes import parse_modes
from monitor.v1.alerts_pb2 import Mode
from monitor.v1.policies_pb2 import PolicyStatus

Say = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def say(featurewatch: Command, world: World) -> Say:
    """Runs `featurewatch policy …` beside the sidecar's event loop."""

    async def run(*arguments: str) -> tuple[int, str, str]:
        words = ("policy", *arguments, "--sidecar", f"unix:{world.socket}")
        return await asyncio.to_thread(lambda: featurewatch(*words))

    return run


async def test_status_says_what_is_in_force_and_what_rules_did(world: World, say: Say) -> None:
    modes = {"quiet": PolicyMode.OFF}
    async with running_sidecar(world.config(modes=modes)), channel_to(world.socket) as channel:
        await flag(await connect(channel))
        code, shown, _ = await say("status")
        assert code == 0
        lines = [line.split() for line in shown.splitlines()]
        assert ["loud", "2", "alert", "(file)", "4"] in lines
        assert ["LOUD-001", "1", "0", "0", "0"] in lines
        assert ["quiet", "1", "off", "(--mode)", "0"] in lines
        assert "quiet: its file says shadow" in shown
        assert max(map(len, shown.splitlines())) <= 80
        code, shown, _ = await say("status", "loud", "--json")
        (policy,) = json.loads(shown)["policies"]
        assert (policy["name"], policy["mode_source"]) == ("loud", "MODE_SOURCE_FILE")
        assert policy["rule_status"] == [{"rule": "LOUD-001", "alerts": "1"}]
        for words in (("status", "lout"), ("mode", "lout", "off", "--reason", "loud"), ("history", "lout")):
            code, shown, said = await say(*words)
            assert (code, shown, "Did you mean 'loud'" in said) == (2, "", True)
        (world.policies / "quiet.yaml").unlink()
        assert (await say("reload"))[0] == 0
        code, shown, _ = await say("history", "quiet", "--limit", "1")
        assert (code, "removed" in shown) == (0, True)


async def test_mode_reload_and_history_tell_one_story(world: World, say: Say) -> None:
    async with running_sidecar(world.config(watch_seconds=None)):
        code, shown, _ = await say("mode", "loud", "shadow", "--reason", "too many alerts", "--actor", "ann")
        assert code == 0
        assert "loud: set by ann: too many alerts" in shown
        code, shown, _ = await say("reload")
        assert (code, shown.strip()) == (0, "Nothing has changed.")
        (world.policies / "loud.yaml").write_text(LOUD.replace("revision: 2", "revision: 3"))
        code, shown, _ = await say("reload", "--reason", "better thresholds")
        assert code == 0
        assert "changed    loud  revision 2 → 3" in shown
        (world.policies / "loud.yaml").write_text("kind: nothing\n")
        code, _, said = await say("reload")
        assert code == 2
        assert "all policies stay as they were" in said
        code, shown, _ = await say("mode", "loud", "--reset", "--reason", "calm again")
        assert (code, "alert (file)" in shown) == (0, True)
        code, shown, _ = await say("history", "loud", "--since", "1h")
    told = [line.split()[2:4] for line in shown.splitlines()]
    assert told == [["started", "loud"], ["mode", "set"], ["changed", "loud"], ["refused", "loud"], ["mode", "reset"]]
    assert "by ann  “too many alerts”" in shown
    assert "alert → shadow" in shown


async def test_status_tells_while_the_files_are_refused(world: World, say: Say) -> None:
    async with running_sidecar(world.config(watch_seconds=None)):
        (world.policies / "loud.yaml").write_text(LOUD.replace("revision: 2", "revision: two"))
        assert (await say("reload"))[0] == 2
        for words in (("status",), ("status", "quiet")):
            code, shown, said = await say(*words)
            assert (code, "quiet" in shown) == (0, True)
            assert 'loud.yaml:3 metadata.revision: "two"' in said
            assert "problems: 1; the policy files are refused, the policies above stay in force" in said
        code, _, said = await say("status", "new-one")
        assert (code, "the policy files are refused, `featurewatch policy status` says why" in said) == (2, True)
        _, shown, _ = await say("status", "--json")
        (problem,) = json.loads(shown)["refused"]
        assert (problem["line"], problem["field"]) == (3, "metadata.revision")
        # Taken back, it leaves no change behind, and nothing to be told.
        (world.policies / "loud.yaml").write_text(LOUD)
        assert (await say("reload"))[:2] == (0, "Nothing has changed.\n")
        assert "problems" not in (await say("status"))[2]


async def test_a_file_whose_name_is_no_text_is_refused_and_status_goes_on(world: World, say: Say) -> None:
    """What names it would reach no client and no store."""
    async with running_sidecar(world.config(watch_seconds=None)) as sidecar:
        odd = Path(os.fsdecode(bytes(world.policies) + b"/caf\xe9.yaml"))
        odd.write_text("kind: nothing\n")
        code, _, said = await say("reload")
        assert (code, "caf\\udce9.yaml" in said, "must be text in UTF-8" in said) == (2, True, True)
        assert sidecar.rollout.reloads == {"refused": 1}
        code, shown, said = await say("status")
        assert (code, "loud" in shown, "problems: 1" in said) == (0, True, True)
        assert "refused" in (await say("history"))[1]


async def test_history_is_read_from_the_store_without_a_sidecar(world: World, featurewatch: Command) -> None:
    async with running_sidecar(world.config()):
        pass
    store = str(world.folder / "audit.sqlite")
    code, shown, _ = featurewatch("policy", "history", "--store", store, "--json")
    assert code == 0
    assert [json.loads(line)["kind"] for line in shown.splitlines()] == ["KIND_STARTED"] * 2
    code, _, said = featurewatch("policy", "history", "--store", store, "--sidecar", "unix:/nowhere")
    assert (code, "only one of them" in said) == (2, True)
    code, _, said = featurewatch("policy", "history", "lout", "--store", store, "--json")
    assert (code, said.strip()) == (2, "error: policy 'lout': the history is of loud, quiet. Did you mean 'loud'?")
    code, shown, _ = featurewatch("policy", "history", "loud", "--since", "0s", "--store", store)
    assert (code, shown.strip()) == (0, "No change of a policy loud is known since 0s.")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mode", "loud", "--reason", "x"], "a mode to set, or --reset"),
        (["mode", "loud", "off", "--reset", "--reason", "x"], "a mode to set, or --reset"),
        (["mode", "loud", "off"], "--reason"),
        (["mode", "loud", "loudest", "--reason", "x"], "known are off, shadow, alert, enforce"),
        (["history", "--since", "soon"], "30m, 12h or 7d"),
    ],
)
def test_what_is_missing_is_told_before_a_sidecar_is_asked(
    featurewatch: Command, arguments: list[str], told: str
) -> None:
    code, _, said = featurewatch("policy", *arguments, "--sidecar", "unix:/nowhere")
    assert code == 2
    assert told in " ".join(said.split())


def test_text_of_others_cannot_steer_the_terminal() -> None:
    status = PolicyStatus(name="p\x1b[2J", reason="set by x: \x1b]0;y\x07", mode=Mode.MODE_OFF, requests_on_older=3)
    remarks = [line.plain for line in status_remarks([status])]
    assert not any("\x1b" in line or "\x07" in line for line in remarks)
    assert any(line.endswith("3 requests finish on an earlier revision") for line in remarks)


NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", datetime(2026, 3, 31, 11, 58, 30, tzinfo=UTC)),
        ("2w", datetime(2026, 3, 17, 12, tzinfo=UTC)),
        ("2026-03-30", datetime(2026, 3, 30, tzinfo=UTC)),
        ("2026-03-30T10:00+02:00", datetime(2026, 3, 30, 8, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_time_ago_or_a_date(text: str, moment: datetime) -> None:
    assert parse_since(text, NOW) == int(moment.timestamp() * 1e9)


@pytest.mark.parametrize("text", ["", "7", "h", "-1h", "999999w", "2026-13-01", "1960-01-01"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(FeaturewatchError, match="--since"):
        parse_since(text, NOW)


def test_modes_of_the_command_line() -> None:
    assert parse_modes(["a=off", "b=enforce", "a=off"]) == {"a": PolicyMode.OFF, "b": PolicyMode.ENFORCE}


@pytest.mark.parametrize("options", [["a"], ["=off"], ["a="], ["a=OFF"], ["a=1"], ["a=off", "a=alert"]])
def test_modes_that_mean_nothing_are_refused(options: list[str]) -> None:
    with pytest.raises(FeaturewatchError, match=f"--mode {options[-1]}"):
        parse_modes(options)


async def test_a_hangup_has_policies_read_again_and_ends_nothing(world: World, say: Say) -> None:
    command = [sys.executable, "-m", "monitor.cli.main", "sidecar", *world.arguments(), "--no-watch"]
    home = os.environ | {"FEATUREWATCH_HOME": str(world.folder)}
    with subprocess.Popen([*command, "--mode", "quiet=alert"], env=home, stdout=subprocess.DEVNULL) as process:
        try:
            async with asyncio.timeout(120):
                while (await say("history"))[0]:
                    await asyncio.sleep(0.1)
                (world.policies / "loud.yaml").write_text(LOUD.replace("revision: 2", "revision: 3"))
                process.send_signal(signal.SIGHUP)
                while "changed" not in (await say("history", "loud"))[1]:
                    await asyncio.sleep(0.1)
            assert "by SIGHUP" in (await say("history", "loud"))[1]
            assert "(--mode)" in (await say("status"))[1]
            assert process.poll() is None
        finally:
            process.terminate()
        assert process.wait(60) == 0
