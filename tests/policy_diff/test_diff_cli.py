"""`featurewatch policy diff`."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from monitor.cli.policy import app
from monitor.errors import FeaturewatchError
from monitor.policy import PolicyError

TEXT = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: bio, revision: 1}
spec:
  detectors:
    - id: one
      source: {denseProbe: {file: w/p.safetensors}}
      aggregate: {kind: max}
      threshold: {fire: 2}
  rules:
    - {id: R-1, when: one.fire, severity: high}
"""


def run(*arguments: Path | str) -> Result:
    return CliRunner().invoke(app, ["diff", *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})


def files(folder: Path, text: str) -> tuple[Path, Path]:
    old, new = folder / "old.yaml", folder / "new.yaml"
    old.write_text(TEXT)
    new.write_text(text)
    return old, new


def test_the_same_meaning_exits_with_0(tmp_path: Path) -> None:
    result = run(*files(tmp_path, TEXT.replace("fire: 2}", "fire: 2.0}  # two")))
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "They mean the same.")
    words = run(*files(tmp_path, TEXT.replace("revision: 1", "revision: 2")))
    assert words.exit_code == 0
    assert "words metadata.revision: 1 → 2" in words.stdout


def test_a_difference_exits_with_1_and_says_what_it_can_do(tmp_path: Path) -> None:
    paths = files(tmp_path, TEXT.replace("fire: 2}", "fire: 1.5}").replace("revision: 1", "revision: 2"))
    result = run(*paths)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[:2] == [f"- bio revision 1  {paths[0]}", f"+ bio revision 2  {paths[1]}"]
    assert "  more  detectors[one].threshold.fire: 2.0 → 1.5  R-1 can fire on more generations" in lines
    told = json.loads(run(*paths, "--json").stdout)
    assert told["same"] is False
    assert told["changes"][1] == {
        "path": "detectors[one].threshold.fire",
        "old": 2.0,
        "new": 1.5,
        "kind": "more",
        "effect": "R-1 can fire on more generations",
    }


def test_bad_input_is_refused(tmp_path: Path) -> None:
    old, new = files(tmp_path, TEXT.replace("fire: 2", "fir: 2"))
    assert isinstance(run(old, new).exception, PolicyError)
    assert isinstance(run("live", "live").exception, FeaturewatchError)
