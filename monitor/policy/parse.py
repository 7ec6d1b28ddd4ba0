"""From the text of a policy file to a policy, or to everything that is wrong with it."""

from __future__ import annotations

import hashlib

from pydantic import ValidationError

from monitor.policy.crosscheck import crosscheck
from monitor.policy.planned import RULE, planned_fields
from monitor.policy.policy import Policy
from monitor.policy.problem import PolicyError
from monitor.policy.problem_text import add_problems, show
from monitor.policy.schema.document import PolicyDocument
from monitor.policy.vocabulary import Mode
from monitor.policy.yaml_fields import Fields, line_of, read_fields


def parse_policy(text: str, file: str = "<policy>") -> Policy:
    """Reads a policy file's text.

    Args:
        text: YAML.
        file: the name shown in problems.

    Raises:
        PolicyError: with all problems that can be found without the policy's sources, in order of lines.
    """
    fields = read_fields(text, file)
    document: PolicyDocument | None = None
    if isinstance(fields.data, dict) and fields.data.get("kind") == "PolicyTest":
        # Shells expand policies/*.yaml to the tests too.
        fields.refuse(
            line_of(fields.lines, "kind"),
            "kind",
            show("PolicyTest"),
            "this file holds the tests of a policy",
            "run it with `featurewatch policy test`, and give policy files or their folder here",
        )
    elif isinstance(fields.data, dict):
        _refuse_planned(fields)
        try:
            document = PolicyDocument.model_validate(fields.data)
        except ValidationError as error:
            add_problems(error, fields)
        crosscheck(fields)
    elif not fields.problems:
        rule = "a policy is a block of fields: apiVersion, kind, metadata, spec"
        fields.refuse(1, "", "", rule, "begin with apiVersion: monitor/v1")
    if fields.problems or document is None:
        raise PolicyError(fields.told())
    return Policy(
        name=document.metadata.name,
        revision=document.metadata.revision,
        sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        file=file,
        source=text,
        mode=Mode[document.spec.mode.upper()],
        document=document,
        lines=fields.lines,
    )


def _refuse_planned(fields: Fields) -> None:
    """Fields and values of the final format that this version would have to ignore."""
    for path, name, value in planned_fields(fields.data):
        remedy = f"remove {name}" if name else "choose another value"
        fields.refuse(line_of(fields.lines, path), path, show(value), RULE, remedy)
