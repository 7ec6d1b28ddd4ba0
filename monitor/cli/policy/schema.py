"""`featurewatch policy schema`."""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON Schema of policy files, for editors that complete and check YAML."""
    from monitor.policy.json_schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
