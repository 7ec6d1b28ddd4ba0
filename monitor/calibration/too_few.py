"""What is told where no threshold can be justified."""

from __future__ import annotations

from dataclasses import asdict

from monitor.calibration.fit import TooFewSamplesError
from monitor.calibration.report import VERSION, Verdict, json_text
from monitor.calibration.run import Origin
from monitor.policy import Policy


def too_few_json(policy: Policy, error: TooFewSamplesError, origin: Origin) -> str:
    """In place of a report's JSON, with its keys as far as there is something to tell. `count` is the benign
    generations that there are, `floor` those that it takes, `missing` the difference."""
    return json_text(
        {
            "version": VERSION,
            "policy": policy.name,
            "revision": policy.revision,
            "sha256": policy.sha256,
            "engine": origin.engine,
            "serving": origin.serving,
            "data": asdict(origin.data),
            "settings": asdict(error.settings),
            "thresholds": error.thresholds,
            "count": error.count,
            "floor": error.floor,
            "missing": error.missing,
            "verdict": Verdict.INCONCLUSIVE,
            "message": str(error),
            "notes": origin.notes,
            "date": origin.date,
        }
    )
