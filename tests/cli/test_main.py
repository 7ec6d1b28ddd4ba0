"""The command as a whole: what it imports, what it says to bad input."""

import subprocess
import sys
from pathlib import Path

import pytest

from monitor.cli.main import main

TOO_LONG = "a" * 300
WITHOUT_ENGINE = """
import sys
HEAVY = {'torch', 'transformers', 'vllm', 'openai', 'sklearn', 'accelerate', 'gguf', 'requests'}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in HEAVY:
            raise ModuleNotFoundError(f'{name} must not be needed here', name=name)
sys.meta_path.insert(0, Refuse())
sys.argv = ['featurewatch', *sys.argv[1:]]
from monitor.cli.main import main
main()
"""


def featurewatch(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command in a Python that has nothing but the sidecar's dependencies."""
    env = {"PATH": "/usr/bin:/bin", "COLUMNS": "200", "FEATUREWATCH_HOME": str(home or "/nonexistent")}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_ENGINE, *arguments], capture_output=True, text=True, env=env, check=False
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("demo", "--help"),
        ("sidecar", "--help"),
        ("model", "--help"),
        ("train", "--help"),
        ("sae", "info", "--help"),
        ("sae", "convert", "--help"),
        ("discover", "--help"),
        ("policy", "check", "--help"),
        ("alerts", "watch", "--help"),
        ("audit", "list", "--help"),
        ("audit", "show", "--help"),
    ],
)
def test_every_command_explains_itself_without_the_engine(arguments: tuple[str, ...]) -> None:
    result = featurewatch(*arguments)
    assert result.returncode == 0, result.stderr
    assert "Usage: featurewatch" in result.stdout


def test_version() -> None:
    assert featurewatch("--version").stdout.startswith("featurewatch 0.")


def test_models_are_listed_without_being_fetched(tmp_path: Path) -> None:
    result = featurewatch("model", "list", home=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "smollm2" in result.stdout
    assert "Apache-2.0" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("model", "fetch", "smollm"), "Did you mean 'smollm2'"),
        (("model", "fetch", "smollm2"), "pip install '.[training]'"),
        (("model", "path", "smollm2"), "featurewatch model fetch smollm2"),
        (("model", "path", "./nowhere"), "no folder"),
        (("sidecar", "--alerts-jsonl", "/proc/nowhere/alerts"), "alerts file /proc/nowhere/alerts (No such file"),
        (("sidecar", "--redis", "redis://localhost", "--spool", "/proc/nowhere/x"), "spool file /proc/nowhere/x (No"),
        (("sidecar", "--redis", "redis://[::1?password=secret"), "Redis URL 'redis://[::1': it must be a whole URL"),
        (("sidecar", "--redis", ""), "Redis URL '': it must be a whole URL"),
        (("sidecar", "--alerts-jsonl", "x", "--no-alerts-jsonl"), "--alerts-jsonl x with --no-alerts-jsonl"),
        (("sidecar", "--spool", "x"), "--spool x: only alerts to Redis are spooled. Add --redis URL"),
        (("sidecar", "--tokenizer", TOO_LONG), f"{TOO_LONG} (File name too long): it must be a file or folder"),
        (("policy", "check", "/nonexistent/policy.yaml"), "/nonexistent/policy.yaml"),
        (("policy", "check", "x", "--model", TOO_LONG), f"{TOO_LONG} (File name too long)"),
        (("audit", "list", "--store", TOO_LONG), f"audit store {TOO_LONG} (File name too long)"),
        (("audit", "list", "--limit", "99999999999999999999"), "Invalid value for '--limit'"),
        (("audit", "list", "--limit", "0"), "Invalid value for '--limit'"),
        (("alerts", "watch", "--sidecar", "nowhere"), "address 'nowhere': an address is written unix:<path>"),
    ],
)
def test_bad_input_gets_a_message_and_no_traceback(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    result = featurewatch(*arguments, home=tmp_path)
    assert result.returncode == 2
    assert says in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_a_demo_that_cannot_start_keeps_the_results_of_the_last(tmp_path: Path) -> None:
    earlier = tmp_path / "demo" / "alerts.jsonl"
    earlier.parent.mkdir()
    earlier.touch()
    assert featurewatch("demo", "--model", "nope", home=tmp_path).returncode == 2
    assert earlier.exists()


def test_an_error_of_the_system_that_is_about_no_file_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("socket is not connected")

    monkeypatch.setattr("monitor.cli.main.app", fail)
    with pytest.raises(OSError, match="not connected"):
        main()
