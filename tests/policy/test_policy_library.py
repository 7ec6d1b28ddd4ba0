"""What everybody may rely on in `policies/`: each policy says what it does, how it was calibrated, where help is."""

from __future__ import annotations

import re
import shutil
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from monitor.policy import Mode, Policy, Problem, check_policy
from monitor.policy.advice import advice
from monitor.policy.when import parse_condition
from monitor.policy_tests import coverage_of, parse_tests, run_tests
from monitor.sae import (
    Catalog,
    DenseProbe,
    Dictionary,
    HookPoint,
    JumpRelu,
    SaeProbe,
    save_dense_probe,
    save_sae_probe,
    save_saelens,
)
from monitor.sidecar.policy_files import policy_files, read_policies
from monitor.sidecar.sources import CatalogSources

ROOT = Path(__file__).parents[2]
LIBRARY = policy_files([ROOT / "policies"])
TEMPLATES = policy_files([ROOT / "policies" / "templates"])
NO_HASH = f"sha256:{64 * '0'}"
TO_FILL = re.compile(r'label: "FILL \w+ latent"|weights/FILL\.')
WIDTH, LATENTS = 8, 16


@pytest.mark.parametrize("file", [*LIBRARY, *TEMPLATES], ids=lambda file: file.stem)
def test_it_says_what_it_does_and_where_help_is(file: Path) -> None:
    metadata = read(file).document.metadata
    assert metadata.description
    assert metadata.runbook
    assert (ROOT / metadata.runbook).is_file()


@pytest.mark.parametrize("file", [*LIBRARY, *TEMPLATES], ids=lambda file: file.stem)
def test_its_tests_pass_and_leave_nothing_untested(file: Path) -> None:
    policy, test_file = read(file), file.with_name(f"{file.stem}_test.yaml")
    results = run_tests(parse_tests(test_file.read_text(), str(test_file)), policy)
    assert not [result.failures for result in results if not result.passed]
    assert not [item for item in coverage_of(policy, [result.observation for result in results]) if not item.covered]


@pytest.mark.parametrize("mode", ["shadow", "alert"])
@pytest.mark.parametrize("file", LIBRARY, ids=lambda file: file.stem)
def test_its_tests_pass_in_whichever_mode_an_adopter_runs_it(file: Path, mode: str, tmp_path: Path) -> None:
    copy, test_file = tmp_path / file.name, file.with_name(f"{file.stem}_test.yaml")
    copy.write_text(re.sub(r"^  mode: \w+$", f"  mode: {mode}", file.read_text(), flags=re.MULTILINE))
    policy = read(copy)
    assert policy.mode is Mode[mode.upper()]
    results = run_tests(parse_tests(test_file.read_text(), str(test_file)), policy)
    assert not [result.failures for result in results if not result.passed]


def test_what_has_not_been_calibrated_on_anyones_traffic_ships_in_shadow() -> None:
    assert read(ROOT / "policies" / "toxicity.yaml").mode is Mode.SHADOW


@pytest.mark.parametrize("file", LIBRARY, ids=lambda file: file.stem)
def test_every_detector_that_a_rule_names_is_calibrated(file: Path) -> None:
    spec = read(file).document.spec
    named = {name for rule in spec.rules for name in parse_condition(rule.when).detectors}
    assert named <= {detector.id for detector in spec.detectors if detector.calibration is not None}


@pytest.mark.parametrize("file", LIBRARY, ids=lambda file: file.stem)
def test_it_fits_the_saes_of_this_checkout(file: Path) -> None:
    assert not problems_of(file, ROOT / "zoo")


def test_templates_are_not_where_policies_are_read() -> None:
    assert TEMPLATES
    assert not set(TEMPLATES) & set(LIBRARY)


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_a_template_is_off_and_states_no_calibration(file: Path) -> None:
    policy = read(file)
    assert policy.mode is Mode.OFF
    assert not [detector for detector in policy.document.spec.detectors if detector.calibration is not None]


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_a_template_is_refused_until_all_of_it_is_filled(file: Path, tmp_path: Path) -> None:
    zoo, copy = tmp_path / "zoo", tmp_path / "policies" / file.name
    copy.parent.mkdir()
    shutil.copy(file, copy)
    text, hook = file.read_text(), str(read(file).document.spec.fitted_on.hook)
    assert problems_of(copy, zoo)

    # The SAE that the template's own command makes.
    sae = re.findall(r"--out zoo/(\S+)", text)[-1]
    sha256 = write_sae(zoo / sae, hook)
    assert len(problems_of(copy, zoo)) == len(TO_FILL.findall(text)) > 0

    write_probes(copy.parent / "weights", sae, hook)
    numbers = count()
    copy.write_text(re.sub(r'label: "FILL \w+ latent"', lambda _: f"index: {next(numbers)}", text))
    (left,) = problems_of(copy, zoo)
    assert (left.field, left.value) == ("spec.fittedOn.sae", NO_HASH)

    copy.write_text(copy.read_text().replace(NO_HASH, f"sha256:{sha256}"))
    assert not problems_of(copy, zoo)


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_one_that_alerts_uncalibrated_is_advised_against(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / file.name
    copy.write_text(file.read_text().replace("mode: off", "mode: alert"))
    remarks = advice(read(copy), "2026-01-01")
    assert {"metadata.owner", "spec.detectors[0].id"} <= {remark.field for remark in remarks}


def read(file: Path) -> Policy:
    (policy,), problems = read_policies([file])
    assert not problems
    return policy


def problems_of(file: Path, zoo: Path) -> list[Problem]:
    return check_policy(read(file), CatalogSources(Catalog([zoo]), file.parent))


def write_sae(folder: Path, hook: str) -> str:
    """A tiny one; returns its hash."""
    rng = np.random.default_rng(0)
    dictionary = Dictionary(
        w_enc_md=rng.normal(size=(LATENTS, WIDTH)).astype(np.float32),
        b_enc_m=np.zeros(LATENTS, np.float32),
        w_dec_md=rng.normal(size=(LATENTS, WIDTH)).astype(np.float32),
        b_dec_d=np.zeros(WIDTH, np.float32),
        activation=JumpRelu(np.full(LATENTS, 0.1, np.float32)),
        hook_point=HookPoint.parse(hook),
        model="tiny",
    )
    save_saelens(dictionary, folder)
    return Catalog([folder.parent]).load(folder.name).sha256


def write_probes(folder: Path, sae: str, hook: str) -> None:
    dense = DenseProbe(HookPoint.parse(hook), np.ones(WIDTH, np.float32), 0.5)
    save_dense_probe(dense, folder / "FILL.dense.safetensors")
    probe = SaeProbe(sae, np.array([7, 5]), np.array([0.5, -1.0], np.float32), 0.25)
    save_sae_probe(probe, folder / "FILL.sae.safetensors")
