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


def folder(root: Path, name: str, **texts: str) -> Path:
    path = root / name
    path.mkdir()
    for policy, text in texts.items():
        (path / f"{policy}.yaml").write_text(text.replace("name: bio", f"name: {policy}"))
    return path


def test_of_folders_policies_of_the_same_name_are_compared(tmp_path: Path) -> None:
    old = folder(tmp_path, "old", calm=TEXT, gone=TEXT, loud=TEXT)
    new = folder(tmp_path, "new", calm=TEXT, loud=TEXT.replace("fire: 2}", "fire: 1.5}"), fresh=TEXT)
    (new / "loud_test.yaml").write_text("kind: PolicyTest\n")
    result = run(old, new)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"- calm revision 1  {old}/calm.yaml",
        f"+ calm revision 1  {new}/calm.yaml",
        "  the same",
        f"+ fresh revision 1  {new}/fresh.yaml  the other side has no policy of this name",
        f"- gone revision 1  {old}/gone.yaml  the other side has no policy of this name",
        f"- loud revision 1  {old}/loud.yaml",
        f"+ loud revision 1  {new}/loud.yaml",
        "  more  detectors[one].threshold.fire: 2.0 → 1.5  R-1 can fire on more generations",
        "more, less: can be judged, fire or be sent. other: neither is certain. words: for the reader.",
    ]
    told = json.loads(run(old, new, "--json").stdout)
    assert [(one["old"]["policy"], one["same"]) for one in told["policies"]] == [("calm", True), ("loud", False)]
    assert [one["policy"] for one in told["onlyOld"]] == ["gone"]
    assert [one["policy"] for one in told["onlyNew"]] == ["fresh"]


def test_folders_that_mean_the_same_exit_with_0_and_one_more_policy_with_1(tmp_path: Path) -> None:
    old, new = folder(tmp_path, "old", a=TEXT, b=TEXT), folder(tmp_path, "new", a=TEXT, b=TEXT)
    same = run(old, new)
    assert (same.exit_code, same.stdout.splitlines()[-1]) == (0, "They mean the same.")
    (new / "b.yaml").unlink()
    less = run(old, new)
    assert less.exit_code == 1
    assert less.stdout.splitlines()[-1] == f"- b revision 1  {old}/b.yaml  the other side has no policy of this name"


def test_a_file_is_compared_with_the_policy_of_its_name_in_a_folder(tmp_path: Path) -> None:
    old = folder(tmp_path, "old", bio=TEXT, gone=TEXT)
    file, _ = files(tmp_path, TEXT)
    same = run(old, file)
    assert same.exit_code == 0
    assert same.stdout.splitlines()[0] == f"- bio revision 1  {old}/bio.yaml"
    file.write_text(TEXT.replace("name: bio", "name: boo"))
    told = run(file, old).exception
    assert isinstance(told, FeaturewatchError)
    assert str(told) == (
        f"policy 'boo' of {file}: {old} has bio, gone. Name the file to compare it with, perhaps that of 'bio'."
    )


def test_a_bad_file_of_a_folder_and_a_folder_without_policies_are_refused(tmp_path: Path) -> None:
    good, bad, empty = folder(tmp_path, "good", a=TEXT), folder(tmp_path, "bad", a="mode: ["), folder(tmp_path, "empty")
    assert isinstance(run(good, bad).exception, PolicyError)
    assert "it holds no policy file" in str(run(good, empty).exception)
