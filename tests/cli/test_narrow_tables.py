"""Tables of `audit list`, `policy status` and `policy check` in terminals of 80, 100 and 200 columns."""

from __future__ import annotations

import pytest
from rich.console import Console, RenderableType

from monitor.cli.audit_table import audit_table
from monitor.cli.policy import summary
from monitor.cli.policy.status import status_table
from monitor.policy import parse_policy
from monitor.v1.alerts_pb2 import Mode, ModeSource
from monitor.v1.coverage_pb2 import Coverage
from monitor.v1.generations_pb2 import GenerationSummary
from monitor.v1.policies_pb2 import PolicyStatus, RuleStatus

CLIENT = "chatcmpl-3fa85f6457174562b3fc2c963f66afa6"
LONG = "policy-of-a-team-with-a-long-name/A-RULE-WITH-A-LONG-NAME"
PROBE = "weights/folder-with-a-long-name/harmful-intent.dense.safetensors"
POLICY = f"""\
apiVersion: monitor/v1
kind: Policy
metadata: {{name: harmful-intent, revision: 1}}
spec:
  detectors:
    - id: dense
      source: {{denseProbe: {{file: {PROBE}}}}}
      aggregate: {{kind: rolling_mean, window: 16, then: max}}
      threshold: {{warn: 0.99681, fire: 2.234, clear: 0.99681}}
      calibration: {{targetFpr: 0.01, benign: texts, n: 953, hits: 4}}
  rules:
    - {{id: HARMFUL-001, when: dense.fire, severity: high}}
"""


def shown(table: RenderableType, width: int) -> list[str]:
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        console.print(table)
    return captured.get().splitlines()


def generations(tenant: str = "") -> list[GenerationSummary]:
    holes = Coverage(positions=2061, observed=2000, dropped=29, unseen=32)
    several = ["harmful-intent/HI-001", "toxicity/TOX-001", "harmful-intent/HI-001"]
    common = {"start_unix_nanos": 1_800_000_000 * 10**9, "prompt_tokens": 120, "output_tokens": 1040, "tenant": tenant}
    return [
        GenerationSummary(generation_id="42582775-a", external_id=CLIENT, fired=several, coverage=holes, **common),
        GenerationSummary(generation_id="abcdef01-b", external_id="mine", end_unix_nanos=1, **common),
    ]


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("tenant", ["", "acme-payments-production"])
def test_names_of_rules_stay_whole_and_nothing_is_outside(width: int, tenant: str) -> None:
    lines = shown(audit_table(generations(tenant), width), width)
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    # What fired twice is named once.
    assert sum(line.count("harmful-intent/HI-001") for line in lines) == 1
    assert {"toxicity/TOX-001", "(running)", "42582775", "abcdef01", "120+1040", "2000/2061", "dropped,"} <= words
    assert {"mine"} | ({tenant} if tenant and width == 200 else set()) <= words
    assert (CLIENT in words) is (width == 200)


def test_a_long_name_goes_on_below_its_policy() -> None:
    (one,) = [GenerationSummary(generation_id="1", fired=[LONG], end_unix_nanos=1)]
    words = [line.split() for line in shown(audit_table([one], 100), 100)]
    assert any("policy-of-a-team-with-a-long-name/" in line for line in words)
    assert any(line == ["A-RULE-WITH-A-LONG-NAME"] for line in words)
    assert any(LONG in line for line in shown(audit_table([one], 200), 200))


@pytest.mark.parametrize(
    ("width", "rows", "mode"), [(80, "123M", ["shadow"]), (100, "123,456,789", ["shadow", "(stale)"])]
)
def test_a_policys_name_has_room_beside_large_numbers(width: int, rows: str, mode: list[str]) -> None:
    rules = [RuleStatus(rule="HI-001", alerts=12_345, would_alert=345_678, late=22_222)]
    status = PolicyStatus(
        name="harmful-intent-of-some",
        revision=12,
        effective_mode=Mode.MODE_SHADOW,
        mode_source=ModeSource.MODE_SOURCE_STALE,
        rows_judged=123_456_789,
        rule_status=rules,
    )
    lines = shown(status_table([status], width), width)
    assert max(map(len, lines)) <= width
    words = [line.split() for line in lines]
    assert ["harmful-intent-of-some", "12", *mode, rows] in words
    assert ["HI-001", "12,345", "345k" if width == 80 else "345,678", "0", "22,222"] in words


def test_names_in_the_summary_of_a_policy_are_folded_and_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=80, no_color=True)
    monkeypatch.setattr(summary, "console", console)
    with console.capture() as captured:
        summary.show_policy(parse_policy(POLICY, "p.yaml"))
    lines = captured.get().splitlines()
    heads = next(line for line in lines if "source" in line)
    begin, end = heads.index("source"), heads.index("aggregate")
    assert PROBE in "".join(line[begin:end].strip() for line in lines)
