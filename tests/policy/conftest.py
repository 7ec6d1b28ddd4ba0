"""Property tests of this room judge results, not the clock: busy machines must not fail them."""

import pytest
from hypothesis import HealthCheck, settings
from schema_paths import schema_paths

from monitor.policy import planned
from monitor.policy.json_schema import json_schema

settings.register_profile("policy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("policy")


@pytest.fixture
def whole_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the schema has is refused by name: the whole format can be tested before all of it is in use."""
    known = {path for path, _ in schema_paths(json_schema())}
    choices = {(path, choice) for path, node in schema_paths(json_schema()) for choice in node.get("enum", ())}
    fields = {
        block: frozenset(name for name in names if f"{block}.{name}" not in known)
        for block, names in planned.FIELDS.items()
    }
    values = {
        path: frozenset(value for value in found if (path, value) not in choices)
        for path, found in planned.VALUES.items()
    }
    monkeypatch.setattr(planned, "FIELDS", fields)
    monkeypatch.setattr(planned, "VALUES", values)
