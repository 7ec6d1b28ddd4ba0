"""What a person can get wrong in a discovery's prompts and names is told, and equal prompts share a split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from toy_discovery import toy_config

from monitor.errors import FeaturewatchError
from monitor.policy.schema.fields import Identifier
from training.discovery.policy_file import _rule_id
from training.discovery.prompts import load_prompts
from training.discovery.publish import require_place
from training.discovery.statistics import area_text


@pytest.mark.parametrize(
    "given",
    [
        {"data", "positive"},
        {"data", "negative"},
        {"data", "positive", "negative"},
        {"positive"},
        {"negative"},
    ],
)
def test_prompts_come_in_exactly_one_form(tmp_path: Path, given: set[str]) -> None:
    """A file that is named but not read would still be hashed into the calibration."""
    files = {
        "data": (tmp_path / "d.jsonl",) if "data" in given else (),
        "positive": tmp_path / "p.txt" if "positive" in given else None,
        "negative": tmp_path / "n.txt" if "negative" in given else None,
    }
    with pytest.raises(FeaturewatchError, match=r"prompts from --.*from --data or from --positive and --negative"):
        toy_config(tmp_path, **files)


@pytest.mark.parametrize("name", ["h3.txt", "h3", "h3.YAML", "h3.json"])
def test_a_policy_file_that_no_folder_shows_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FeaturewatchError, match=r"only files that end in \.yaml or \.yml are read.*h3\.yaml"):
        require_place(tmp_path / name, force=False)


@pytest.mark.parametrize("name", ["h3.yaml", "h3.yml"])
def test_a_policy_file_that_a_folder_shows_is_taken(tmp_path: Path, name: str) -> None:
    require_place(tmp_path / name, force=False)


@pytest.mark.parametrize(
    ("name", "rule_id"), [("harmful-intent", "HARMFUL-001"), ("2-harm", "R2-001"), ("x" * 63, "X" * 32 + "-001")]
)
def test_every_policy_name_gives_a_rule_id(name: str, rule_id: str) -> None:
    assert _rule_id(name) == rule_id
    assert TypeAdapter(Identifier).validate_python(rule_id) == rule_id


@pytest.mark.parametrize("field", ["text", "source", "category"])
def test_half_of_a_surrogate_pair_is_told(tmp_path: Path, field: str) -> None:
    row = {"text": "t", "label": 1, "split": "val", "source": "s", "category": "c"} | {field: "a\ud800"}
    (tmp_path / "labelled.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(FeaturewatchError, match=r"labelled\.jsonl:1: .*half of a surrogate pair"):
        load_prompts(toy_config(tmp_path, data=(tmp_path / "labelled.jsonl",)))


def test_blanks_at_the_end_of_a_line_move_no_prompt_to_the_other_split(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("".join(f"good {n}\ngood {n} \n\tgood {n}\n" for n in range(60)))
    bad.write_text("".join(f"bad {n}\n" for n in range(60)))
    prompts = load_prompts(toy_config(tmp_path, data=(), positive=bad, negative=good))
    assert len(prompts) == 240
    assert not {p.text for p in prompts if p.is_val} & {p.text for p in prompts if not p.is_val}


def test_a_prompt_file_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("good\n")
    bad.write_bytes("gefährlich\n".encode("latin-1"))
    with pytest.raises(FeaturewatchError, match=r"bad\.txt .*it must be UTF-8 text"):
        load_prompts(toy_config(tmp_path, data=(), positive=bad, negative=good))


def test_an_area_that_was_not_measured_is_called_so() -> None:
    assert [area_text(area) for area in (0.98765, float("nan"))] == ["0.988", "not measured"]
