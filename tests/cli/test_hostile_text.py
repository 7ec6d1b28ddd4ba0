"""Ids that clients choose reach a terminal as text: never as rich markup, never as control characters."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import Command

from monitor.audit import AuditStore
from monitor.cli.alerts import _show
from monitor.errors import FeaturewatchError
from monitor.v1.alerts_pb2 import Alert, WatchAlertsResponse
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary, Provenance

ESCAPING = "req-\x1b]0;owned\x07\x1b[31m\u202eid\nnext"
SHOWN = "req-\\u001b]0;owned\\u0007\\u001b[31m\\u202eid⏎next"
MARKUP = ("chatcmpl-[/x]", "[red]req[bold]", "\\[dim]")


def store_of(folder: Path, *external_ids: str) -> Path:
    store = AuditStore(folder / "audit.sqlite")
    for number, external_id in enumerate(external_ids):
        summary = GenerationSummary(
            generation_id=f"gen-{number}",
            request_id=f"{external_id}-x{number}",
            external_id=external_id,
            model=external_id,
            fired=["loud/LOUD-001"],
        )
        store.put(
            GenerationRecord(
                summary=summary,
                engine=EngineInfo(name="vllm", model=external_id),
                provenance=[Provenance(kind="sae", name=external_id, sha256="ab" * 32)],
                notes=[external_id],
            )
        )
    store.close()
    return store.path


@pytest.mark.parametrize("id_", MARKUP)
def test_an_id_is_no_markup(tmp_path: Path, featurewatch: Command, id_: str) -> None:
    store = str(store_of(tmp_path, id_))
    code, out, _ = featurewatch("audit", "list", "--store", store)
    assert code == 0
    assert id_ in out
    code, out, _ = featurewatch("audit", "show", "gen-0", "--store", store)
    assert code == 0
    # Heading with id, engine id and model; engine, provenance, note.
    assert out.count(id_) == 6


def test_an_id_cannot_steer_the_terminal(tmp_path: Path, featurewatch: Command) -> None:
    store = str(store_of(tmp_path, ESCAPING, ESCAPING))
    for command in (("list",), ("show", "gen-0")):
        code, out, _ = featurewatch("audit", *command, "--store", store)
        assert code == 0
        assert SHOWN in out
        assert not {"\x1b", "\x07", "\u202e"} & set(out)


def test_an_ambiguous_id_is_told_without_control_characters(tmp_path: Path, featurewatch: Command) -> None:
    code, _, err = featurewatch("audit", "show", "req-", "--store", str(store_of(tmp_path, ESCAPING, ESCAPING)))
    assert code == 2
    assert "2 generations match" in err
    assert SHOWN.partition("⏎")[0] in err
    assert not {"\x1b", "\x07", "\u202e"} & set(err)


def test_an_error_keeps_its_lines(featurewatch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise FeaturewatchError("two things\n  one\n  two \x1b[2J", "they are wrong", "mend them")

    monkeypatch.setattr("monitor.cli.main.app", fail)
    code, _, err = featurewatch()
    assert code == 2
    assert err == "error: two things\n  one\n  two \\u001b[2J: they are wrong. Mend them.\n"


@pytest.mark.parametrize(("id_", "shown"), [(ESCAPING, SHOWN), *((id_, id_) for id_ in MARKUP)])
def test_a_watched_alert_is_one_plain_line(capsys: pytest.CaptureFixture[str], id_: str, shown: str) -> None:
    _show(WatchAlertsResponse(alert=Alert(policy="loud", rule="LOUD-001", external_id=id_)), json=False)
    out = capsys.readouterr().out
    assert shown in out
    assert out.count("\n") == 1
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
