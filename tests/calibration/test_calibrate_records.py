"""`policy calibrate --records`: from a sidecar's store to the policy file, and back to a verdict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from calibration_records import POLICY, Edit, calibrate, nothing, provenance_for, record, write_store
from support.command import Command

from monitor.audit import in_sample
from monitor.policy import parse_policy
from monitor.v1.generations_pb2 import CoverageGap, GenerationRecord


def test_from_records_to_thresholds_and_a_verdict(policy_file: Path, featurewatch: Command) -> None:
    provenance = provenance_for(policy_file)
    peaks = np.random.default_rng(0).normal(size=300)
    store = write_store(policy_file, [record(number, peak, provenance) for number, peak in enumerate(peaks)])
    before = policy_file.read_text()
    code, out, _ = featurewatch(*calibrate(policy_file, store))
    assert code == 0
    assert policy_file.read_text() == before
    assert "not written: add --write" in out
    assert "Traffic from 1970-01-01 to 1970-01-01" in out
    assert "Recorded traffic counts as benign, unread" in out
    assert featurewatch(*calibrate(policy_file, store, "--write"))[0] == 0
    written = parse_policy(policy_file.read_text())
    (detector,) = written.document.spec.detectors
    highest = float(np.float32(peaks.max()))
    assert highest < detector.threshold.fire < highest * 1.001
    assert detector.calibration is not None
    assert (detector.calibration.n, detector.calibration.hits, detector.calibration.target_fpr) == (300, 0, 0.01)
    assert detector.calibration.benign.startswith("audit.sqlite@sha256:")
    assert written.revision == 2
    assert written.document.spec.fitted_on.model_dump(by_alias=True, exclude_none=True) == {
        "model": "Tiny",
        "dtype": "float32",
        "quantization": "none",
        "kvCacheDtype": "auto",
        "vllm": "0.32.0",
        "hook": "resid_post.1",
    }
    assert "# not yet" in policy_file.read_text()
    code, out, _ = featurewatch(*calibrate(policy_file, store, "--check", "--json"))
    assert (code, json.loads(out)["verdict"]) == (0, "pass")


def test_a_check_holds_the_rate_against_what_was_promised(
    policy_file: Path, featurewatch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    provenance = provenance_for(policy_file)
    store = write_store(policy_file, [record(number, 0.0, provenance) for number in range(300)])
    words = calibrate(policy_file, store, "--json")
    code, out, _ = featurewatch(*words, "--target-fpr", "0.02", "--write")
    assert code == 0
    report = policy_file.with_name("report.json")
    report.write_text(out)
    policy_file.write_text(policy_file.read_text().replace("targetFpr: 0.02", "targetFpr: 0.03"))

    def target(*more: str) -> float:
        return float(json.loads(featurewatch(*words, "--check", *more)[1])["settings"]["target"])

    assert (target(), target("--baseline", str(report))) == (0.03, 0.02)
    assert target("--baseline", str(report), "--target-fpr", "0.05") == 0.05
    monkeypatch.setattr("monitor.cli.calibration.command.stated_target", lambda *_: (0.04, "of a detector only"))
    checked = json.loads(featurewatch(*words, "--check")[1])
    assert (checked["settings"]["target"], checked["notes"][-1]) == (0.04, "of a detector only")


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_lines_end_as_they_did(policy_file: Path, featurewatch: Command, ends: str) -> None:
    """A file of another system would be changed in every line."""
    policy_file.write_text(policy_file.read_text(), newline=ends)
    provenance = provenance_for(policy_file)
    store = write_store(policy_file, [record(number, 0.0, provenance) for number in range(100)])
    assert featurewatch(*calibrate(policy_file, store, "--target-fpr", "0.05", "--write"))[0] == 0
    written = policy_file.read_bytes().decode()
    assert "revision: 2" in written
    assert not {"\r", "\n"} & set(written.replace(ends, ""))


def test_a_check_tells_what_it_was_fitted_on(policy_file: Path, featurewatch: Command) -> None:
    provenance = provenance_for(policy_file)
    store = write_store(policy_file, [record(number, 0.0, provenance) for number in range(300)])
    code, out, _ = featurewatch(*calibrate(policy_file, store, "--check", "--target-fpr", "0.01"))
    assert code == 10
    assert "dtype: fitted on bfloat16, serving float32" in out


def test_too_few_records_say_how_many_more(policy_file: Path, featurewatch: Command) -> None:
    provenance = provenance_for(policy_file)
    store = write_store(policy_file, [record(number, 0.0, provenance) for number in range(100)])
    code, _, told = featurewatch(*calibrate(policy_file, store))
    assert code == 12
    assert "INCONCLUSIVE 100 benign generations" in told
    assert "Give 199 more, or a higher --target-fpr" in told
    # Why there are so few.
    assert "Recorded traffic counts as benign, unread" in told


def test_too_few_records_are_told_as_json(policy_file: Path, featurewatch: Command) -> None:
    provenance = provenance_for(policy_file)
    store = write_store(policy_file, [record(number, 0.0, provenance) for number in range(100)])
    code, out, told = featurewatch(*calibrate(policy_file, store, "--json", "--write", share="0.5"))
    found = json.loads(out)
    assert (code, found["verdict"]) == (12, "inconclusive")
    assert "INCONCLUSIVE" in told
    wanted = sum(in_sample(f"generation-{number}", 0.5) for number in range(100))
    assert (found["count"], found["floor"], found["missing"]) == (wanted, 299, 299 - wanted)
    assert found["data"]["left_out"] == {"not of the sample": 100 - wanted}
    assert (found["policy"], found["revision"], found["settings"]["target"]) == ("toy", 1, 0.01)
    assert parse_policy(policy_file.read_text()).revision == 1


def test_only_the_sample_is_taken(policy_file: Path, featurewatch: Command) -> None:
    provenance = provenance_for(policy_file)
    store = write_store(policy_file, [record(number, 0.0, provenance) for number in range(400)])
    wanted = sum(in_sample(f"generation-{number}", 0.5) for number in range(400))
    code, out, _ = featurewatch(*calibrate(policy_file, store, "--target-fpr", "0.05", "--json", share="0.5"))
    assert code == 0
    report = json.loads(out)
    assert report["sample"]["false_alarms"]["n"] == wanted
    assert 150 < wanted < 250
    assert report["data"]["left_out"] == {"not of the sample": 400 - wanted}


@pytest.mark.parametrize(("cut", "told"), [(3, False), (6, True)])
def test_much_of_the_sample_missing_is_told(policy_file: Path, featurewatch: Command, cut: int, told: bool) -> None:
    """Follow-up turns come out of the prefix cache: what is left is another traffic."""
    provenance = provenance_for(policy_file)
    records = [record(number, 0.0, provenance, _with_gap if number < cut else nothing) for number in range(100)]
    words = calibrate(policy_file, write_store(policy_file, records), "--target-fpr", "0.05")
    code, out, _ = featurewatch(*words)
    assert code == 0
    assert (f"{cut} of the sample's 100 generations could not be taken" in out) == told


def _another_engine(made: GenerationRecord) -> None:
    made.engine.dtype = "bfloat16"


def _with_gap(made: GenerationRecord) -> None:
    made.summary.coverage.observed = 1
    made.gaps.append(CoverageGap(first_position=0, count=2, reason="unseen: prefix cache"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_with_gap, "1 with unseen tokens"),
        (lambda made: made.notes.append("it began before this sidecar process"), "1 with irregularities"),
        (
            lambda made: made.score_columns.__setitem__(0, "toy/other"),
            "1 without token scores of detector d: its scores are not recorded",
        ),
        (lambda made: made.provenance.pop(), "1 judged with another SAE or probe"),
        (lambda made: setattr(made.summary, "end_unix_nanos", 0), "1 not ended"),
    ],
)
def test_what_is_not_whole_is_left_out(policy_file: Path, featurewatch: Command, edit: Edit, message: str) -> None:
    store = write_store(policy_file, [record(0, 0.0, provenance_for(policy_file), edit)])
    code, _, told = featurewatch(*calibrate(policy_file, store))
    assert code == 2
    assert message in told


def test_records_of_two_engines_are_not_mixed(policy_file: Path, featurewatch: Command) -> None:
    provenance = provenance_for(policy_file)
    records = [record(0, 0.0, provenance), record(1, 0.0, provenance, _another_engine)]
    code, _, told = featurewatch(*calibrate(policy_file, write_store(policy_file, records)))
    assert code == 2
    assert "records of 2 engine configurations" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "nothing to calibrate on"),
        ("--benign x.jsonl", "texts without --model"),
        ("--records a.sqlite --benign x.jsonl", "--records with texts or a model"),
        ("--records a.sqlite", "--records without --keep-share: a store holds all that was flagged"),
        ("--records a.sqlite --write", "Give the --keep-share of that sidecar; 1 if it kept everything"),
        ("--records a.sqlite --check", "--records without --keep-share"),
        ("--benign x.jsonl --model m --labels l.jsonl", "--labels without --records"),
        ("--benign x.jsonl --model m --keep-share 0.1", "--keep-share 0.1"),
        ("--records a.sqlite --keep-share 0", "--keep-share 0"),
        ("--benign x.jsonl --model m --engine torch", "--engine torch: it is vllm or hf"),
        ("--benign x.jsonl --model m --target rule", "--target rule: it is policy or detector"),
        ("--records a.sqlite --keep-share 1 --check --write", "--write with --check"),
        ("--records a.sqlite --keep-share 1 --check --holdout-share 0.5", "--holdout-share with --check"),
        ("--records a.sqlite --keep-share 1 --baseline b.json", "--baseline: a check compares with it"),
        ("--records a.sqlite --keep-share 1 --check", "none of the detectors that its rules name states a calibration"),
        ("--records a.sqlite --keep-share 1 --split val", "--split with --records: it has no effect there"),
        ("--records a.sqlite --keep-share 1 --dtype float16", "--dtype with --records"),
        ("--benign x.jsonl --model m --engine hf --max-tokens 9", "--max-tokens with --engine hf"),
        ("--benign x.jsonl --model m --engine hf --engine-args {}", "--engine-args with --engine hf"),
        ("--records a.sqlite --keep-share 1", "there is no such file"),
        ("--records a.sqlite --keep-share 1 --target-fpr 1.5", "target-fpr 1.5"),
    ],
)
def test_options_that_do_not_go_together(policy_file: Path, featurewatch: Command, options: str, message: str) -> None:
    code, _, told = featurewatch("policy", "calibrate", str(policy_file), *options.split())
    assert code == 2
    assert message in told


def test_a_policy_in_error_is_refused_with_its_problems(policy_file: Path, featurewatch: Command) -> None:
    policy_file.write_text(POLICY.replace("d.fire", "e.fire").replace("revision: 1", "revision: x"))
    code, _, told = featurewatch(*calibrate(policy_file, Path("a.sqlite")))
    assert code == 2
    assert "toy.yaml:3 metadata.revision" in told
    assert "the policy has no such detector" in told
