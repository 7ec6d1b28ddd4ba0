"""Ids and transcripts reach a terminal as text: never as rich markup, never as control characters."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.command import Command

from monitor.audit import AuditStore
from monitor.cli.alerts import _show
from monitor.cli.log_lines import PrintableFormatter
from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint, Relu, save_saelens
from monitor.v1.alerts_pb2 import Alert, Contribution, DetectorReading, WatchAlertsResponse
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary, Provenance, TokenRecord

ESCAPING = "req-\x1b]0;owned\x07\x1b[31m\u202eid\nnext"
SHOWN = "req-\\u001b]0;owned\\u0007\\u001b[31m\\u202eid⏎next"
# C0 and C1 controls, DEL, changes of direction, separators that some readers take for the end of a line.
STEERING = "\x1b]0;owned\x07\x9b31m\x7f\x85\u061c\u202e\u2066\u2028\u2029 日本 🙂"
MARKUP = ("chatcmpl-[/x]", "[red]req[bold]", "\\[dim]")


def store_of(
    folder: Path, *external_ids: str, tokens: Sequence[TokenRecord] = (), alerts: Sequence[Alert] = ()
) -> Path:
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
                content="full",
                tokens=tokens,
                alerts=alerts,
                score_columns=[f"loud/{alert.readings[0].detector}" for alert in alerts],
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


def hostile_alert() -> Alert:
    return Alert(
        policy=STEERING,
        rule=STEERING,
        token=STEERING,
        external_id=STEERING,
        runbook=STEERING,
        readings=[
            DetectorReading(
                detector=STEERING, in_rule=True, contributions=[Contribution(direction=STEERING, label=STEERING)]
            )
        ],
    )


def test_json_output_is_ascii_and_says_the_same(tmp_path: Path, featurewatch: Command) -> None:
    tokens = [TokenRecord(text=STEERING, observed=True)]
    store = str(store_of(tmp_path, STEERING, tokens=tokens, alerts=[hostile_alert()]))
    code, out, _ = featurewatch("audit", "show", "gen-0", "--json", "--store", store)
    assert code == 0
    assert plain_ascii(out)
    assert json.loads(out)["tokens"][0]["text"] == STEERING
    code, out, _ = featurewatch("audit", "list", "--json", "--store", store)
    assert code == 0
    assert plain_ascii(out)
    assert [json.loads(line)["external_id"] for line in out.splitlines()] == [STEERING]


def test_a_watched_alert_as_json_is_one_line_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    _show(WatchAlertsResponse(alert=hostile_alert()), json=True)
    out = capsys.readouterr().out
    assert plain_ascii(out)
    (line,) = out.splitlines()
    fields = json.loads(line)
    names = ("policy", "rule", "token", "external_id", "runbook", "detector", "direction", "direction_label")
    assert {fields[name] for name in names} == {STEERING}


def test_a_transcript_cannot_steer_the_terminal(tmp_path: Path, featurewatch: Command) -> None:
    tokens = [TokenRecord(text=STEERING, observed=True, scores=[9.0], token_scores=[9.0])]
    store = str(store_of(tmp_path, "req", tokens=tokens, alerts=[hostile_alert()]))
    code, out, _ = featurewatch("audit", "show", "gen-0", "--store", store)
    assert code == 0
    assert "日本 🙂" in out
    assert not set(STEERING.rstrip(" 日本🙂")) & {c for c in out if not c.isprintable()}


def test_a_log_line_stays_one_line_and_plain() -> None:
    try:
        raise ValueError(f"bad {ESCAPING}")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "request %s", (ESCAPING,), sys.exc_info())
    message, *traceback = PrintableFormatter().format(record).split("\n")
    assert message.endswith(f"ERROR x: request {SHOWN}")
    assert traceback[0].startswith("Traceback")
    assert not {"\x1b", "\x07", "\u202e"} & set("".join(traceback))


def test_the_files_of_an_sae_cannot_steer_the_terminal(tmp_path: Path, featurewatch: Command) -> None:
    ones = np.ones((2, 3), np.float32)
    dictionary = Dictionary(
        w_enc_md=ones,
        b_enc_m=ones[:, 0],
        w_dec_md=ones,
        b_dec_d=ones[0],
        activation=Relu(),
        hook_point=HookPoint(1),
        model=f"{ESCAPING}[/x]",
    )
    save_saelens(dictionary, tmp_path / "sae")
    code, out, _ = featurewatch("sae", "info", str(tmp_path / "sae"))
    assert code == 0
    assert f"{SHOWN}[/x]" in out
    assert not {"\x1b", "\x07", "\u202e"} & set(out)


def plain_ascii(text: str) -> bool:
    return all(" " <= character <= "~" or character == "\n" for character in text)
