"""JSON Schema of the policy file, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from monitor.policy.schema.document import PolicyDocument


def json_schema() -> dict[str, Any]:
    """The schema of `PolicyDocument`; what only Python can check (order of thresholds, `when`) is not in it."""
    return schema_of(PolicyDocument, "Featurewatch policy")


def schema_of(document: type[BaseModel], title: str) -> dict[str, Any]:
    """The schema of a file with this document, for editors."""
    schema = _tidied(document.model_json_schema(by_alias=True))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def _tidied(schema: Any) -> Any:
    """Without generated titles, without null (a field that has no value is left out of the file) and without the
    defaults of blocks, which are the defaults of their fields."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    unwanted = {"default"} if isinstance(schema.get("default"), (dict, type(None))) else set()
    unwanted |= {key for key, value in schema.items() if key == "title" and isinstance(value, str)}
    kept = {key: _tidied(value) for key, value in schema.items() if key not in unwanted}
    options = [option for option in kept.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) == 1:
        del kept["anyOf"]
        kept = {**options[0], **kept}
    return kept
