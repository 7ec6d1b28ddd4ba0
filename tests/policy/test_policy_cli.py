"""`featurewatch policy`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from policy_samples import GOOD
from policy_seeds import ANSWERS, COUNTING
from typer.testing import CliRunner, Result
from zoo_samples import SAE, WIDTH, write_policy, write_zoo

from monitor.cli.policy import app
from monitor.errors import FeaturewatchError
from monitor.policy.json_schema import json_schema
from monitor.sae import Catalog


def check(*arguments: Path | str) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, arguments)], env={"COLUMNS": "200"})


def write_model(root: Path, config: object) -> Path:
    folder = root / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_good_policy_is_summed_up(tmp_path: Path) -> None:
    model = write_model(tmp_path, {"num_hidden_layers": 30, "hidden_size": WIDTH})
    result = check(write_policy(tmp_path), "--zoo", write_zoo(tmp_path), "--model", model)
    assert result.exit_code == 0, result.stderr
    assert all(line.startswith("advice ") for line in result.stderr.splitlines())
    for part in (
        "harm revision 3, mode alert",
        "latents",
        "target 1 %: 9 of 1000 benign fired",
        "HARM-001",
        "2 tokens",
        "high",
    ):
        assert part in result.stdout


def test_what_counts_and_what_correlates_is_summed_up(tmp_path: Path) -> None:
    counting = COUNTING.replace("label: weapons", "index: 0").replace("label: lies", "index: 2")
    counting = counting.replace("tiny/resid_post.9", SAE)
    result = check(
        write_policy(tmp_path, counting), write_policy(tmp_path, ANSWERS, "a.yaml"), "--zoo", write_zoo(tmp_path)
    )
    assert result.exit_code == 0, result.stderr
    for part in (
        "count_over of 8 tokens above 0.5, then max",
        "3 latents of tiny/resid_post.14, 2 of them",
        "cusum drift 0.1",
        "red-team, canary",
        "5 firings per tenant",
        "2 generations per tenant, adapter, tap, model",
        "each in order per tenant",
    ):
        assert part in result.stdout


def test_each_problem_is_one_line_with_file_and_line(tmp_path: Path) -> None:
    bad = write_policy(
        tmp_path, GOOD.replace("{index: 2}", "{index: 99}").replace("tiny/resid_post.14", "[b]"), "bad.yaml"
    )
    worse = write_policy(tmp_path, "mode: [", "worse.yaml")
    result = check(bad, worse, tmp_path / "none.yaml", "--zoo", write_zoo(tmp_path))
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f'error {bad}:12 spec.detectors[0].source.saeLatents.sae: ["b"] — must be text. ')
    assert lines[1].startswith(f"error {worse}:1: the file must be YAML")
    assert lines[2].startswith(f"error {tmp_path}/none.yaml:1: No such file or directory — ")
    assert lines[3] == "problems: 3, in 3 of 3 files"


def test_advice_is_told_beside_problems_and_fails_only_where_it_is_asked_to(tmp_path: Path) -> None:
    zoo, file = write_zoo(tmp_path), write_policy(tmp_path)
    advised = (
        f"advice {file}:17 spec.detectors[0].calibration.targetFpr: 0.01 — 9 of 1000 show a rate of at most 1.565 %"
    )
    told = check(file, "--zoo", zoo)
    assert (told.exit_code, advised in told.stderr) == (0, True)
    assert check(file, "--zoo", zoo, "--strict").exit_code == 1
    bad = write_policy(
        tmp_path, GOOD.replace("{index: 2}", "{index: 99}").replace("name: harm", "name: bad"), "bad.yaml"
    )
    both = check(file, bad, "--zoo", zoo, "--strict")
    assert both.exit_code == 2
    assert advised in both.stderr
    assert f"error {bad}:13" in both.stderr


def test_a_policy_without_advice_passes_strictly(tmp_path: Path) -> None:
    text = GOOD.replace("hits: 9", "hits: 0").replace("hook: resid_post.14", f"sae: sha256:{sha256_of_zoo(tmp_path)}")
    text = text.replace("mode: alert", "mode: shadow").replace("{fire: 2}", "{fire: 2, clear: 1}")
    text = text.replace("sae_probe.warn", "sae_probe.fire")
    result = check(write_policy(tmp_path, text), "--zoo", tmp_path / "zoo", "--strict")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""


def sha256_of_zoo(tmp_path: Path) -> str:
    return Catalog([write_zoo(tmp_path)]).load(SAE).sha256


def test_what_was_found_is_given_to_machines(tmp_path: Path) -> None:
    zoo, file = write_zoo(tmp_path), write_policy(tmp_path)
    bad = write_policy(tmp_path, "mode: [", "bad.yaml")
    result = check(file, bad, "--zoo", zoo, "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert [(one["name"], one["revision"], one["file"]) for one in found["good"]] == [("harm", 3, str(file))]
    assert [(one["file"], one["line"]) for one in found["problems"]] == [(str(bad), 1)]
    assert found["problems"][0].keys() == {"file", "line", "field", "value", "rule", "remedy"}
    assert "spec.detectors[0].calibration.targetFpr" in [one["field"] for one in found["advice"]]
    assert result.stderr == ""


def test_a_folder_stands_for_its_policy_files(tmp_path: Path) -> None:
    file = write_policy(tmp_path)
    write_policy(tmp_path, "nothing that counts", "harm_test.yaml")
    result = check(file.parent, file, "--zoo", write_zoo(tmp_path))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("harm revision 3") == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    told = check(empty)
    assert isinstance(told.exception, FeaturewatchError)
    assert "it holds no policy file" in str(told.exception)


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    result = check(tmp_path / ("a" * 300))
    assert result.exit_code == 2
    assert "File name too long — it must be a readable text file" in result.stderr


def test_sources_that_do_not_fit_are_named(tmp_path: Path) -> None:
    file = write_policy(tmp_path, GOOD.replace("{index: 2}", "{index: 99}"))
    model = write_model(tmp_path, {"text_config": {"num_hidden_layers": 10, "hidden_size": 16}})
    result = check(file, "--zoo", write_zoo(tmp_path), "--model", model)
    assert result.exit_code == 2
    assert "99 — SAE tiny/resid_post.14 has latents 0 to 9. Choose one of them." in result.stderr
    assert "tiny has layers 0 to 9" in result.stderr
    assert "the residual stream of tiny has width 16" in result.stderr


def test_a_good_file_is_shown_beside_a_bad_one_and_names_are_unique(tmp_path: Path) -> None:
    first, second = write_policy(tmp_path), write_policy(tmp_path, name="copy.yaml")
    result = check(first, second, "--zoo", write_zoo(tmp_path))
    assert result.exit_code == 2
    assert "harm revision 3" in result.stdout
    assert f"error {second}:3 metadata.name: harm — {first} has a policy of this name." in result.stderr


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    result = check(tmp_path / "binary.yaml")
    assert result.exit_code == 2
    assert "it must be a readable text file in UTF-8" in result.stderr


@pytest.mark.parametrize("config", [{}, [], {"num_hidden_layers": True, "hidden_size": 8}, {"hidden_size": 8}])
def test_a_model_without_layers_and_width_is_refused(tmp_path: Path, config: object) -> None:
    result = check(write_policy(tmp_path), "--model", write_model(tmp_path, config))
    assert isinstance(result.exception, FeaturewatchError)
    assert "num_hidden_layers and hidden_size" in str(result.exception)


def test_the_schema_is_printed(tmp_path: Path) -> None:
    assert json.loads(CliRunner().invoke(app, ["schema"]).stdout) == json_schema()
