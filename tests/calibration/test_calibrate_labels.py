"""`policy calibrate --records --labels`: what people said of recorded generations."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_records import Edit, calibrate, flagged, nothing, provenance_for, record, write_policy, write_store
from support.command import Command

from monitor.audit import in_sample
from monitor.cli.calibration.labels import match_labels, read_labels
from monitor.errors import FeaturewatchError
from monitor.policy import parse_policy
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary

SHARE = 0.5
IN = [number for number in range(360) if in_sample(f"generation-{number}", SHARE)]
OUT = [number for number in range(360) if number not in IN]
TARGET = ("--target-fpr", "0.05")


def rows(folder: Path, *given: object, name: str = "labels.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def label(number: int, value: int, **more: str) -> dict[str, Any]:
    return {"id": f"generation-{number}", "label": value} | more


def flagged_by_another(made: GenerationRecord) -> None:
    """Of this policy there is only an alert of positions that it did not see."""
    made.summary.fired.extend(["toys/R1", "toy/on-unseen"])


def traffic(policy_file: Path, harmful: Iterable[int], outside: Iterable[int]) -> Path:
    """The sample, and `outside` of it what was flagged. Harmful ones are flagged and score from 50, others up to 1."""
    provenance = provenance_for(policy_file)
    peaks = np.random.default_rng(0).random(360)
    high = set(harmful)
    with_fire = high | set(outside)

    def made(number: int) -> GenerationRecord:
        edit: Edit = flagged if number in with_fire else nothing
        if number == OUT[0]:
            edit = flagged_by_another
        return record(number, 50 + peaks[number] if number in high else float(peaks[number]), provenance, edit)

    return write_store(policy_file, [made(number) for number in sorted({*IN, *outside})])


def thirty_labelled(policy_file: Path) -> list[str]:
    """Words of a calibration on a sample of which thirty were flagged, and were read and labelled harmful."""
    store = traffic(policy_file, IN[:30], [])
    labels = rows(policy_file.parent, *(label(number, 1) for number in IN[:30]))
    return calibrate(policy_file, store, "--labels", str(labels), *TARGET, share=str(SHARE))


def report_of(featurewatch: Command, policy_file: Path, store: Path, labels: Path, *more: str) -> dict[str, Any]:
    words = calibrate(policy_file, store, "--labels", str(labels), "--json", *TARGET, *more, share=str(SHARE))
    code, out, told = featurewatch(*words)
    assert code == 0, told
    found: dict[str, Any] = json.loads(out)
    return found


def test_harmful_ones_leave_the_benign_sample_and_count_for_recall(policy_file: Path, featurewatch: Command) -> None:
    harmful, outside = IN[:30], OUT[:20]
    store = traffic(policy_file, [*harmful, *outside[:12]], outside)
    # 30 of the sample are harmful, 2 benign; 12 outside of it are harmful, 3 benign, and 5 have no label.
    labels = rows(
        policy_file.parent,
        *(label(number, 1, category="weapons", source="audit") for number in (*harmful, *outside[:12])),
        *(label(number, 0) for number in (*IN[30:32], *outside[12:15])),
        label(5000, 1),
    )
    without = report_of(featurewatch, policy_file, store, rows(policy_file.parent, label(IN[40], 0), name="one.jsonl"))
    assert without["sample"]["false_alarms"]["n"] == len(IN)
    assert without["fitted"]["d"]["fire"] > 50
    found = report_of(featurewatch, policy_file, store, labels)
    assert found["sample"]["false_alarms"]["n"] == len(IN) - 30
    assert found["fitted"]["d"]["fire"] < 1
    assert found["sample"]["recall"] == found["sample"]["recall_by"]["audit / weapons"]
    assert (found["sample"]["recall"]["n"], found["sample"]["recall"]["hits"]) == (42, 42)
    assert found["data"]["left_out"] == {"not of the sample": 5, "labelled benign, but not of the sample": 3}
    assert found["data"]["labels"] == {
        "given": 48,
        "unknown": ["generation-5000"],
        "not_taken": 3,
        "harmful": 42,
        "flagged": 41,
        "outside": 12,
        "outside_unflagged": 1,
        "benign": 2,
        "unread": len(IN) - 32,
    }
    assert found["data"]["benign"].startswith(f"audit.sqlite (a sample of 0.5, 2 of {len(IN) - 30} read)@sha256:")
    assert found["data"]["benign"].partition("@")[2] != without["data"]["benign"].partition("@")[2]
    notes = "\n".join(found["notes"])
    assert "The store does not have 1 of the labelled generations: 'generation-5000'." in notes
    assert "this policy had flagged 41 of the 42 harmful ones when they were recorded" in notes


def test_recall_of_what_was_flagged_is_not_stated(policy_file: Path, featurewatch: Command) -> None:
    words = thirty_labelled(policy_file)
    code, out, _ = featurewatch(*words, "--write")
    assert code == 0
    assert "of labelled" in out
    (detector,) = parse_policy(policy_file.read_text()).document.spec.detectors
    assert detector.calibration is not None
    assert (detector.calibration.harmful, detector.calibration.recall) == (None, None)
    assert detector.calibration.benign.startswith(f"audit.sqlite (a sample of 0.5, 0 of {len(IN) - 30} read)")
    # It was all found, and still nothing is known of what was never flagged.
    text = policy_file.read_text().replace("hits:", "recall: 0.6, hits:")
    policy_file.write_text(text)
    code, out, _ = featurewatch(*words, "--check")
    assert code == 12
    assert "recall 100.0% of 30 harmful, 60.0% stated: the labelled ones are mostly those that were flagged" in out


def test_recall_of_a_sample_that_was_read_whole_is_that_of_traffic(policy_file: Path, featurewatch: Command) -> None:
    store = traffic(policy_file, IN[:30], [])
    labels = rows(policy_file.parent, *(label(number, int(number in IN[:30])) for number in IN))
    found = report_of(featurewatch, policy_file, store, labels, "--write")
    assert found["data"]["labels"]["unread"] == 0
    assert not any("mostly too high" in note for note in found["notes"])
    (detector,) = parse_policy(policy_file.read_text()).document.spec.detectors
    assert detector.calibration is not None
    assert detector.calibration.recall == 1
    assert (detector.calibration.harmful or "").startswith("labels.jsonl@sha256:")
    code, out, _ = featurewatch(
        *calibrate(policy_file, store, "--labels", str(labels), "--check", "--json", share=str(SHARE))
    )
    assert (code, json.loads(out)["verdict"]) == (0, "pass")


def test_what_was_flagged_outside_of_the_sample_is_no_part_of_its_recall(
    policy_file: Path, featurewatch: Command
) -> None:
    """All of the sample was read, but harmful ones that were flagged weigh more than in traffic."""
    store = traffic(policy_file, [*IN[:30], *OUT[:10]], OUT[:10])
    labels = rows(policy_file.parent, *(label(number, int(number in IN[:30])) for number in IN), label(OUT[0], 1))
    found = report_of(featurewatch, policy_file, store, labels, "--write")
    assert (found["data"]["labels"]["unread"], found["data"]["labels"]["outside"]) == (0, 1)
    (detector,) = parse_policy(policy_file.read_text()).document.spec.detectors
    assert detector.calibration is not None
    assert detector.calibration.recall is None


def test_recall_that_fell_among_labelled_ones_fell(policy_file: Path, featurewatch: Command) -> None:
    store = traffic(policy_file, [], IN[:40])
    labels = rows(policy_file.parent, *(label(number, 1) for number in IN[:40]))
    words = calibrate(policy_file, store, "--labels", str(labels), *TARGET, share=str(SHARE))
    assert featurewatch(*words, "--write")[0] == 0
    policy_file.write_text(policy_file.read_text().replace("hits:", "recall: 0.6, hits:"))
    code, out, _ = featurewatch(*words, "--check")
    assert code == 11
    assert "60.0% stated:" in out


def test_what_only_another_policy_had_flagged_shows_no_loss(policy_file: Path, featurewatch: Command) -> None:
    """It was chosen for another policy's sake, so that this one may well miss it."""
    provenance = provenance_for(policy_file)
    made = [record(number, 0.5, provenance) for number in IN]
    made += [record(number, 0.5, provenance, flagged_by_another) for number in OUT[:40]]
    store = write_store(policy_file, made)
    labels = rows(policy_file.parent, *(label(number, 1) for number in OUT[:40]))
    words = calibrate(policy_file, store, "--labels", str(labels), *TARGET, share=str(SHARE))
    assert featurewatch(*words, "--write")[0] == 0
    policy_file.write_text(policy_file.read_text().replace("hits:", "recall: 0.6, hits:"))
    code, out, _ = featurewatch(*words, "--check")
    assert code == 12
    assert "recall 0.0% of 40 harmful, 60.0% stated: some of the labelled ones are there for another policy's" in out
    assert "Recorded for another policy's sake, from outside of the sample: 40; these may make them too low." in out


def test_a_baseline_of_labelled_records_states_no_recall(policy_file: Path, featurewatch: Command) -> None:
    words = thirty_labelled(policy_file)
    _, out, _ = featurewatch(*words, "--write", "--json")
    before = policy_file.parent / "before.json"
    before.write_text(out)
    code, out, _ = featurewatch(*words, "--check", "--baseline", str(before), "--json")
    found = json.loads(out)
    assert (code, found["verdict"]) == (0, "pass")
    assert not any("recall" in finding["text"] for finding in found["findings"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [label(1, 0), label(2, 1), label(1, 1)],
            r"labels.jsonl:3 with id 'generation-1': .*:1 labels this .* as 0, here",
        ),
        ([label(1, 0), label(1, 0)], r"labels.jsonl:2 .*labels this generation already, with the same label"),
        ([{"label": 1, "text": "a"}], r"labels.jsonl:1 with label, text: each row names one recorded generation"),
        ([{"id": 7, "label": 1}], r"each row names one recorded generation"),
        ([{"id": "", "label": 1}], r"each row names one recorded generation"),
        ([{"id": "a", "generation_id": "a", "label": 1}], r"each row names one recorded generation"),
        ([{"id": "a"}], r"labels.jsonl:1 with label None: a label is 0 \(benign\) or 1 \(harmful\)"),
        ([{"id": "a", "label": True}], r"with label True"),
        ([{"id": "a", "label": 2}], r"with label 2"),
        ([{"id": "a\ud800", "label": 1}], r"labels.jsonl:1: the row holds half of a surrogate pair"),
        ([], r"there is no row"),
        (["a"], r"labels.jsonl:1: each line must be a JSON object"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, given: list[object], message: str) -> None:
    with pytest.raises(FeaturewatchError, match=message):
        read_labels([rows(tmp_path, *given)])


def test_two_files_may_not_label_one_generation(tmp_path: Path) -> None:
    first, second = (rows(tmp_path, label(1, 0), name=name) for name in ("a.jsonl", "b.jsonl"))
    with pytest.raises(FeaturewatchError, match=r"b\.jsonl:1 .*a\.jsonl:1 labels this generation already"):
        read_labels([first, second])


def summary(generation: str, request: str, client: str) -> GenerationSummary:
    return GenerationSummary(generation_id=generation, request_id=request, external_id=client)


def test_ids_of_the_generation_the_request_and_the_client(tmp_path: Path) -> None:
    summaries = [summary("g1", "r1", "c"), summary("g2", "r2", "c"), summary("g3", "r3", "g1")]

    def matched(*ids: str) -> dict[str, str]:
        labels = read_labels([rows(tmp_path, *({"generation_id": name, "label": 1} for name in ids))])
        return {generation: one.id for generation, one in match_labels(labels, summaries).by_generation.items()}

    # What a client calls its request cannot turn a label away from the generation that has the id.
    assert matched("g1", "r2") == {"g1": "g1", "g2": "r2"}
    with pytest.raises(FeaturewatchError, match=r"labels.jsonl:1 with id 'c': 2 generations have it: g1, g2"):
        matched("c")
    with pytest.raises(FeaturewatchError, match=r"labels.jsonl:2 with id 'r1': .*:1 labels this generation already"):
        matched("g1", "r1")
    with pytest.raises(FeaturewatchError, match=r"labels, e\.g\. of 'g' \(1 in all\): the store has none of these"):
        matched("g")


def test_a_share_that_was_not_kept_is_noticed(policy_file: Path, featurewatch: Command) -> None:
    """Of all flagged generations and half of the others a tenth would come out as false alarms, not a twentieth."""
    store = traffic(policy_file, [], OUT[:40])
    code, _, told = featurewatch(*calibrate(policy_file, store, *TARGET, share="1"))
    assert code == 2
    assert f"--keep-share 1 with {len(IN):,} unflagged generations" in told
    assert f"{len(IN):,} of them among the first 0.5" in told
    code, _, _ = featurewatch(*calibrate(policy_file, store, *TARGET, share=str(SHARE / 2)))
    assert code == 0


def test_a_store_of_flagged_generations_alone_is_no_sample(policy_file: Path, featurewatch: Command) -> None:
    """Whatever share is said, thresholds that a twentieth of these reach are reached by next to no traffic."""
    provenance = provenance_for(policy_file)
    store = write_store(policy_file, [record(number, number / 360, provenance, flagged) for number in range(360)])
    for share, count in (("1", 360), (str(SHARE), len(IN))):
        code, _, told = featurewatch(*calibrate(policy_file, store, *TARGET, share=share))
        assert code == 2
        assert f"--keep-share {share} with {count} generations of that share in" in told
        assert "every one of them was flagged" in told


def test_another_definition_under_the_same_name_is_not_taken(tmp_path: Path, featurewatch: Command) -> None:
    """The records have scores of a detector of this name, and they are not its scores."""
    policy_file = write_policy(tmp_path)
    store = traffic(policy_file, [], [])
    text = policy_file.read_text()
    policy_file.write_text(text.replace("minTokens: 2", "minTokens: 1"))
    assert featurewatch(*calibrate(policy_file, store, *TARGET, share=str(SHARE)))[0] == 0
    policy_file.write_text(text.replace("minTokens: 2", "minTokens: 2, skip: [bos]"))
    code, _, told = featurewatch(*calibrate(policy_file, store, *TARGET, share=str(SHARE)))
    assert code == 2
    assert f"{len(IN):,} without token scores of detector d: it skips other token classes" in told
