"""What an earlier run stated, for a check to compare with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Final

from monitor.calibration.labelled import Labelled
from monitor.calibration.levels import Levels, stated_levels
from monitor.calibration.report import VERSION
from monitor.calibration.settings import Scope
from monitor.errors import FeaturewatchError
from monitor.policy import Policy

OTHER_THRESHOLDS: Final = (
    "The thresholds of the baseline are not the policy's, so its recall is not compared; AUROC, which knows no "
    "threshold, is."
)


@dataclass(frozen=True)
class Baseline:
    """Attributes:

    recall: per detector, the stated share of harmful generations on which it fires.
    policy_recall: of the whole policy; None where no report states it.
    areas: per detector AUROC; the policy file has no place for them, so they come from a report alone.
    target: the rate that the whole policy was promised; None where no calibration to its thresholds states it.
    notes: what of a report is not compared, for the reader.
    """

    recall: dict[str, float] = field(default_factory=dict)
    policy_recall: float | None = None
    areas: dict[str, float] = field(default_factory=dict)
    target: float | None = None
    notes: tuple[str, ...] = ()


def stated_in(policy: Policy) -> Baseline:
    """What the policy file states."""
    found = {}
    for detector in policy.document.spec.detectors:
        if detector.calibration is not None and detector.calibration.recall is not None:
            found[detector.id] = detector.calibration.recall
    return Baseline(recall=found)


def stated_in_report(text: str, name: str, policy: Policy) -> Baseline:
    """What the JSON of an earlier run of this policy states, and what the policy file states besides.

    Recall of recorded traffic that says little of other traffic (`Labelled.shows_recall`) is nothing to compare with,
    nor is recall at other thresholds than the policy's.

    Raises:
        FeaturewatchError: it is no such report, or of another policy.
    """
    remedy = "give the file that `featurewatch policy calibrate --json` wrote"
    try:
        report = json.loads(text)
        if report["version"] != VERSION or report["policy"] != policy.name:
            raise FeaturewatchError(
                f"baseline {name} of version {report['version']}, policy {report['policy']}",
                f"this version reads {VERSION}, and the policy is {policy.name}",
                remedy,
            )
        measured = {id_: Levels(**one) for id_, one in (report["fitted"] or report["stated"]).items()}
        now = stated_levels(policy)
        # What a check was held against is no promise.
        promised = report["fitted"] is not None and report["settings"]["scope"] == Scope.POLICY.value
        target = float(report["settings"]["target"]) if promised and measured == now else None
        labels = report["data"].get("labels")
        if labels is not None and not Labelled(**labels).shows_recall:
            return replace(stated_in(policy), target=target)
        sample = report["held"] or report["sample"]
        recall = {id_: one["recall"] for id_, one in sample["detectors"].items() if one["recall"]}
        areas = {id_: one["area"]["value"] for id_, one in sample["detectors"].items() if one["area"]}
        whole = sample["recall"]
        same = {id_ for id_ in recall if id_ in measured and id_ in now and measured[id_].fire == now[id_].fire}
        return Baseline(
            recall=stated_in(policy).recall | {id_: _share(one) for id_, one in recall.items() if id_ in same},
            policy_recall=None if whole is None or measured != now else _share(whole),
            areas={id_: float(value) for id_, value in areas.items()},
            target=target,
            notes=() if measured == now else (OTHER_THRESHOLDS,),
        )
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        rule = f"it must be the report of a calibration ({type(error).__name__}: {error})"
        raise FeaturewatchError(f"baseline {name}", rule, remedy) from error


def _share(rate: dict[str, int]) -> float:
    return rate["hits"] / rate["n"]
