"""From a report to the policy file: what will be stated, the difference, and the file itself."""

from __future__ import annotations

import contextlib
import difflib
import os
import tempfile
from pathlib import Path

from monitor.calibration.policy_text import Change, Scalar, changed_text
from monitor.calibration.report import Report
from monitor.calibration.settings import Method
from monitor.errors import FeaturewatchError
from monitor.policy import Policy
from monitor.policy.binomial import rounded_up, shown_rate


def change_of(report: Report, stated_of_sources: dict[str, str]) -> Change:
    """What the report states of the policy. `stated_of_sources`: hook and SAE, as keys of `fittedOn`."""
    if report.fitted is None:
        raise ValueError("a check fits nothing that could be written")
    calibrations = {name: _calibration(report, name) for name in report.fitted}
    stated = {key: value for key, value in report.serving.items() if value}
    return Change(report.fitted, calibrations, stated | stated_of_sources)


def _calibration(report: Report, name: str) -> dict[str, Scalar]:
    detector, settings = report.sample.detectors[name], report.settings
    alarms = detector.false_alarms
    guaranteed = settings.method is Method.GUARANTEED
    fields: dict[str, Scalar] = {"targetFpr": _stated_target(report, name)}
    if guaranteed:
        fields["confidence"] = settings.confidence
    fields |= {"benign": report.data.benign, "n": alarms.n, "hits": alarms.hits}
    # A later check compares with it, so it must be one that texts can be held against.
    if report.data.harmful is not None and detector.recall is not None and report.data.shows_recall:
        fields |= {"harmful": report.data.harmful, "recall": round(detector.recall.share, 4)}
    return fields | {"date": report.date}


def _stated_target(report: Report, name: str) -> float:
    """The target, where the detector alone keeps it; where a rule joins several, or waits with `for`, each may fire
    more often, and then it is the rate that its own hits show."""
    alarms, settings = report.sample.detectors[name].false_alarms, report.settings
    if settings.method is Method.EMPIRICAL:
        return settings.target if alarms.share <= settings.target else rounded_up(alarms.share)
    return shown_rate(alarms.hits, alarms.n, settings.target, settings.confidence)


def new_text(policy: Policy, change: Change) -> str:
    """See `changed_text`."""
    return changed_text(policy, change)


def difference(policy: Policy, text: str) -> str:
    """A unified diff; empty when nothing changes."""
    name = Path(policy.file).name
    lines = difflib.unified_diff(
        policy.source.splitlines(keepends=True),
        text.splitlines(keepends=True),
        f"{name} (revision {policy.revision})",
        f"{name} (revision {policy.revision + 1})",
        n=1,
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def write_policy(policy: Policy, text: str) -> None:
    """Replaces the file at once, keeping its permissions and line ends; a link keeps pointing where it did.

    Raises:
        FeaturewatchError: the file was changed since it was read, or its folder cannot be written.
    """
    path = Path(policy.file).resolve()
    try:
        with path.open(encoding="utf-8") as file:
            before, ends = file.read(), file.newlines
        if before != policy.source:
            raise FeaturewatchError(f"policy {path}", "it was changed while the calibration ran", "run it again")
        handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline=ends if isinstance(ends, str) else "\n") as new:
                new.write(text)
                new.flush()
                os.fsync(new.fileno())
            os.chmod(draft, path.stat().st_mode & 0o7777)  # noqa: PTH101
            os.replace(draft, path)  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)  # noqa: PTH108
            raise
    except OSError as error:
        raise FeaturewatchError(
            f"policy {path} ({error.strerror or error})", "its folder must be writable", "check its owner"
        ) from error
