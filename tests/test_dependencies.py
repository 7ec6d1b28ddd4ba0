"""The rooms import each other only along the arrows of the design."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "monitor/tap": {"monitor.tap", "monitor.sae", "monitor.rpc", "monitor.v1"},
    "monitor/sidecar": {
        "monitor.sidecar",
        "monitor.policy",
        "monitor.emit",
        "monitor.audit",
        "monitor.sae",
        "monitor.rpc",
        "monitor.v1",
    },
    "monitor/emit": {"monitor.emit", "monitor.rpc", "monitor.v1"},
    "monitor/audit": {"monitor.audit", "monitor.rpc", "monitor.v1"},
    "monitor/policy": {"monitor.policy"},
    "monitor/calibration": {"monitor.calibration", "monitor.policy"},
    "monitor/policy_diff": {"monitor.policy_diff", "monitor.policy"},
    "monitor/policy_tests": {"monitor.policy_tests", "monitor.policy"},
    "monitor/replay": {"monitor.replay", "monitor.policy", "monitor.v1"},
    "monitor/sae": {"monitor.sae"},
    "monitor/rpc": {"monitor.rpc", "monitor.v1"},
    "training": {"training", "monitor.sae", "monitor.policy"},
}
NOT_PURE = {"torch", "os", "time", "datetime", "socket", "subprocess", "requests", "grpc", "sqlite3", "random"}


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield str(node.module)


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] == "training" else ".".join(parts[:2])


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_import_against_the_arrow(room: str) -> None:
    against = [
        f"{file.relative_to(PROJECT)} imports {module}"
        for file in (PROJECT / room).rglob("*.py")
        for module in imports(file)
        if module.split(".")[0] in ("monitor", "training")
        and room_of(module) not in MAY_IMPORT[room] | {"monitor", "monitor.errors"}
    ]
    assert against == []


def test_policy_does_no_io_and_has_no_clock() -> None:
    impure = [
        f"{file.relative_to(PROJECT)} imports {module}"
        for file in (PROJECT / "monitor" / "policy").rglob("*.py")
        for module in imports(file)
        if module.split(".")[0] in NOT_PURE
    ]
    assert impure == []
