"""The one error that a person reads: what was wrong, which rule it broke, what to do."""

from __future__ import annotations


class FeaturewatchError(Exception):
    """Bad input or configuration, told as value, rule and remedy.

    Args:
        subject: what is wrong and where, with the offending value, e.g. ``hook point 'resid_post.40'``.
        rule: the rule it breaks, e.g. ``the model has layers 0 to 29``.
        remedy: what the reader can do, e.g. ``choose a layer from 0 to 29``.
    """

    def __init__(self, subject: str, rule: str, remedy: str) -> None:
        super().__init__(subject, rule, remedy)
        self.subject = subject
        self.rule = rule
        self.remedy = remedy

    def __str__(self) -> str:
        end = "?" if self.remedy.startswith("did you mean") else "."
        return f"{self.subject}: {self.rule}. {self.remedy[:1].upper()}{self.remedy[1:]}{end}"
