"""Evidence is made with every normal form, not only with those that policies can watch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sidecar_kit import LATENTS, WIDTH, make_dictionary

from monitor.rpc import floats_to_bytes
from monitor.sae import InputNorm, TopK, load_saelens, save_saelens
from monitor.sidecar.evidence.encode_process import Dictionaries, evidence_of
from monitor.v1.tap_pb2 import ResidualRows


@pytest.mark.parametrize("rule", ["none", "layer_norm", "unit_norm"])
def test_topk_on_normalised_rows(tmp_path: Path, rule: InputNorm) -> None:
    sae = dataclasses.replace(make_dictionary(3), activation=TopK(4), input_norm=rule)
    folder = save_saelens(sae, tmp_path / "sae")
    x_nd = np.random.default_rng(1).standard_normal((5, WIDTH), np.float32)
    rows = ResidualRows(row_count=5, width=WIDTH, dtype="float32", values=floats_to_bytes(x_nd))
    evidence = evidence_of(Dictionaries().get(str(folder), load_saelens(folder).sha256), rows, None)
    f_nm, left_nd = sae.encode(x_nd), x_nd - sae.reconstruct(x_nd)
    assert evidence.num_latents == LATENTS
    for token, f_m, x_d, left_d in zip(evidence.tokens, f_nm, x_nd, left_nd, strict=True):
        assert 0 < token.active == np.count_nonzero(f_m) <= 4
        np.testing.assert_allclose(token.activations, sorted(f_m[f_m > 0], reverse=True), rtol=1e-5)
        assert token.error == pytest.approx((left_d @ left_d) / (x_d @ x_d), rel=1e-4)
