"""A discovery replaces all files of a policy or none."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from toy_discovery import prompts_and_rows, save_toy_sae, toy_config

from monitor.errors import FeaturewatchError
from monitor.policy import Policy, parse_policy
from monitor.sae import Catalog
from training.discovery import run
from training.discovery.config import DiscoverConfig
from training.discovery.publish import next_revision
from training.discovery.run import discover_from_rows, discover_policy

FILES = {
    "toy-harm.yaml",
    "weights/toy-harm.dense.safetensors",
    "weights/toy-harm.sae.safetensors",
    "weights/toy-harm.report.json",
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog([save_toy_sae(tmp_path_factory.mktemp("zoo"))])


@pytest.fixture
def discover(catalog: Catalog, tmp_path: Path) -> Callable[[int], DiscoverConfig]:
    (tmp_path / "policies").mkdir()

    def run_once(seed: int) -> DiscoverConfig:
        config = toy_config(tmp_path, policy_out=tmp_path / "policies" / "toy-harm.yaml", target_fpr=0.02)
        prompts, rows = prompts_and_rows(seed)
        discover_from_rows(config, catalog, prompts, rows, Console(file=io.StringIO()))
        return config

    return run_once


def _content(folder: Path) -> dict[str, bytes]:
    """All files below the folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _policies(discover: Callable[[int], DiscoverConfig], is_first: bool) -> Path:
    folder = discover(0).policy_out.parent
    if is_first:
        for file in FILES:
            (folder / file).unlink()
    return folder


def test_only_finished_files_are_left_and_all_may_read_them(discover: Callable[[int], DiscoverConfig]) -> None:
    folder = discover(0).policy_out.parent
    assert set(_content(folder)) == FILES
    assert {oct((folder / file).stat().st_mode & 0o777) for file in FILES} == {"0o644"}
    before = _content(folder)
    assert _policy(folder).revision == 1
    assert _policy(folder).document.metadata.owner is None
    discover(1)
    assert _policy(folder).revision == 2
    assert set(_content(folder)) == FILES
    assert all(_content(folder)[file] != before[file] for file in FILES)


@pytest.mark.parametrize("left", [None, "no policy", b"\xff"])
def test_what_is_no_policy_is_followed_by_the_first_revision(tmp_path: Path, left: str | bytes | None) -> None:
    if left is not None:
        (tmp_path / "p.yaml").write_bytes(left if isinstance(left, bytes) else left.encode())
    assert next_revision(tmp_path / "p.yaml") == 1


def test_a_policy_is_replaced_only_by_force(
    catalog: Catalog, discover: Callable[[int], DiscoverConfig], tmp_path: Path
) -> None:
    config = dataclasses.replace(discover(0), model="/no/such/model")
    with pytest.raises(FeaturewatchError, match=r"there is a policy already.*--force"):
        discover_policy(config, catalog, Console(file=io.StringIO()))
    with pytest.raises(FeaturewatchError, match="/no/such/model"):
        discover_policy(dataclasses.replace(config, force=True), catalog, Console(file=io.StringIO()))


def _policy(folder: Path) -> Policy:
    return parse_policy((folder / "toy-harm.yaml").read_text())


@pytest.mark.parametrize("step", ["judge", "check_policy", "_report"])
def test_a_policy_that_fails_its_checks_leaves_the_old_files(
    discover: Callable[[int], DiscoverConfig], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = discover(0).policy_out.parent
    before = _content(folder)

    def failing(*_: object, **__: object) -> object:
        raise RuntimeError(step)

    monkeypatch.setattr(run, step, failing)
    with pytest.raises(RuntimeError, match=step):
        discover(1)
    assert _content(folder) == before


@pytest.mark.parametrize("failing_file", ["toy-harm.sae.safetensors", "toy-harm.yaml"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_move_that_fails_takes_the_others_back(
    discover: Callable[[int], DiscoverConfig], monkeypatch: pytest.MonkeyPatch, failing_file: str, is_first: bool
) -> None:
    """The disk fails at the second or at the last of four files, with and without an older policy."""
    folder = _policies(discover, is_first)
    before = _content(folder)
    move = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if Path(target).name == failing_file:
            raise OSError(28, "No space left on device")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(FeaturewatchError, match=r"No space left.*the old files are as they were"):
        discover(1)
    assert _content(folder) == before


@pytest.mark.parametrize(
    ("policy_out", "message"),
    [("Not A Name.yaml", "lower case letters, digits and hyphens"), ("file/x.yaml", "its folder must be writable")],
)
def test_a_place_where_no_policy_can_be_is_told_before_the_prompts_are_run(
    catalog: Catalog, tmp_path: Path, policy_out: str, message: str
) -> None:
    (tmp_path / "file").write_text("")
    config = toy_config(tmp_path, model="/no/such/model", policy_out=tmp_path / policy_out)
    with pytest.raises(FeaturewatchError, match=message):
        discover_policy(config, catalog, Console(file=io.StringIO()))
