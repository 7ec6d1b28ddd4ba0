"""`featurewatch policy schema`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def schema(
    tests: Annotated[bool, typer.Option("--tests", help="Of test files (`*_test.yaml`) instead.")] = False,
) -> None:
    """Print the JSON Schema of policy files, for editors that complete and check YAML.

    Write it beside the policies as schema.json, and begin them with `# yaml-language-server: $schema=schema.json`.
    """
    from monitor.policy.json_schema import json_schema
    from monitor.policy_tests import json_schema_of_tests

    typer.echo(json.dumps(json_schema_of_tests() if tests else json_schema(), indent=2))
