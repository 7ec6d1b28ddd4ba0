"""A policy with a correlation and notifications in the world of the sidecar's tests."""

from __future__ import annotations

from fake_tap import FakeTap, Rows, begin, end
from sidecar_kit import LOUD, World

REPEATED = "{id: LOUD-REPEATED, kind: count, rules: [LOUD-001], within: 10m, atLeast: 5, severity: critical}"
NOTIFY = "{groupBy: [tenant], wait: 1s, interval: 1s}"


def correlated_policy(mode: str = "alert", correlation: str = REPEATED, notify: str = NOTIFY) -> str:
    more = f"  correlations:\n    - {correlation}\n" + (f"  notify: {notify}\n" if notify else "")
    owner = LOUD.replace('runbook: "https://example.org/loud"', 'runbook: "https://example.org/loud", owner: oncall')
    return owner.replace("mode: alert", f"mode: {mode}") + more


def write_policy(world: World, text: str) -> World:
    (world.policies / "loud.yaml").write_text(text)
    return world


async def flag_for(tap: FakeTap, handle: int, tenant: str) -> None:
    """One request of a tenant that fires LOUD-001 at token 3 and ends."""
    await tap.send(
        tap.frame([Rows(handle, 0, (0, 1, 2), dense=(0, 0, 0))], begins=[begin(handle, tenant=tenant)]),
        tap.frame([Rows(handle, 3, (3,), dense=(9,))], ends=[end(handle, 4)]),
    )
