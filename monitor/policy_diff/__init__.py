"""The difference in meaning of two versions of a policy. Pure: no I/O."""

from monitor.policy_diff.diff import Change, diff_policies
from monitor.policy_diff.effects import Kind

__all__ = ["Change", "Kind", "diff_policies"]
