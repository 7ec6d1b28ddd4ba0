"""What is saved in SAELens layout is what is read again, for every normal form."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from normal_forms import normal_forms, random_form

from monitor.errors import FeaturewatchError
from monitor.sae import (
    Dictionary,
    GroupMax,
    HookPoint,
    JumpRelu,
    Relu,
    TopK,
    load_dictionary,
    load_saelens,
    save_saelens,
)
from monitor.sae.activation import Activation
from monitor.sae.checksum import encode_checksum


@settings(deadline=None)
@given(sae=normal_forms(), half=st.booleans())
def test_every_form_comes_back(sae: Dictionary, half: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "sae"
        if isinstance(sae.activation, GroupMax):
            with pytest.raises(FeaturewatchError, match="--threshold-from"):
                save_saelens(sae, at)
            assert not at.exists()
            return
        read = load_saelens(save_saelens(sae, at, dtype="float16" if half else "float32"))
        by_content = load_dictionary(at)
    store = np.float16 if half else np.float32
    for name in ("w_enc_md", "b_enc_m", "w_dec_md", "b_dec_d"):
        np.testing.assert_array_equal(getattr(read, name), getattr(sae, name).astype(store).astype(np.float32))
        np.testing.assert_array_equal(getattr(by_content, name), getattr(read, name))
    assert (read.hook_point, read.model, read.input_norm) == (sae.hook_point, sae.model, sae.input_norm)
    if isinstance(sae.activation, JumpRelu):
        assert isinstance(read.activation, JumpRelu)
        np.testing.assert_array_equal(read.activation.threshold_m, sae.activation.threshold_m)
    else:
        assert read.activation == sae.activation
    if not half:
        assert str(encode_checksum(read)) == str(encode_checksum(sae))


def test_the_origin_of_a_converted_sae_stays_and_its_hook_name_is_ours(tmp_path: Path) -> None:
    sae = random_form(8, 4, TopK(2), "none", 3)
    sae.metadata.update(source_format="Gemma Scope", source="a/b", hook_name="somewhere.else", sae_lens_version="3.0")
    config = json.loads((save_saelens(sae, tmp_path / "sae") / "cfg.json").read_text())
    assert config["metadata"]["source"] == "a/b"
    assert config["metadata"]["hook_name"] == sae.hook_point.transformer_lens_name
    assert load_saelens(tmp_path / "sae").metadata["source_format"] == "Gemma Scope"


def test_weights_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    sae = random_form(8, 4, Relu(), "none", 3)
    sae.w_dec_md[0, 0] = 1e6
    with pytest.raises(FeaturewatchError, match=r"W_dec with values up to 1e\+06.*float16 cannot hold"):
        save_saelens(sae, tmp_path / "sae", dtype="float16")
    with pytest.raises(FeaturewatchError, match="float32 or float16"):
        save_saelens(sae, tmp_path / "sae", dtype="bfloat16")
    assert not (tmp_path / "sae").exists()


def test_the_checksum_tells_saes_apart_and_not_how_they_were_stored() -> None:
    sae = random_form(5000, 4, JumpRelu(np.full(5000, 0.5, np.float32)), "none", 3)
    rng = np.random.Generator(np.random.PCG64(1))
    f_nm = np.maximum(rng.standard_normal((8, 4)) @ sae.w_enc_md.T.astype(float) + sae.b_enc_m, 0)
    f_nm *= f_nm > 0.5
    checksum = encode_checksum(sae)
    assert checksum.value == pytest.approx((f_nm * (1 + np.arange(5000) % 97)).sum(), rel=1e-12)
    assert checksum.l0 == np.count_nonzero(f_nm) / 8
    sae.w_enc_md[[0, 1]] = sae.w_enc_md[[1, 0]]
    assert str(encode_checksum(sae)) != str(checksum)


@pytest.mark.parametrize("silent", [JumpRelu(np.full(500, 1e3, np.float32)), Relu(), TopK(2), GroupMax(250)])
def test_an_sae_that_is_silent_on_the_noise_has_a_checksum_too(silent: Activation) -> None:
    drawn = random_form(500, 4, silent, "none", 3)
    sae = replace(drawn, b_enc_m=drawn.b_enc_m - np.float32(0 if isinstance(silent, JumpRelu) else 1e3))
    x_nd = np.random.Generator(np.random.PCG64(1)).standard_normal((8, 4))
    assert not sae.encode(x_nd.astype(np.float32)).any()
    checksum = encode_checksum(sae)
    f_nm = sae.encode((checksum.times * x_nd).astype(np.float32))
    assert checksum.value == pytest.approx((f_nm * (1 + np.arange(500) % 97)).sum(), rel=1e-4)
    assert checksum.l0 == np.count_nonzero(f_nm) / 8 >= 1
    assert str(checksum).endswith(f" on {checksum.times:g} times the noise)")
    halved_nm = sae.encode((checksum.times / 2 * x_nd).astype(np.float32))
    assert np.count_nonzero(halved_nm) / 8 <= 5
    swapped = replace(sae, w_enc_md=sae.w_enc_md[np.roll(np.arange(500), 1)])
    assert str(encode_checksum(swapped)) != str(checksum)
    higher = replace(sae, b_enc_m=sae.b_enc_m + np.float32(1))
    assert str(encode_checksum(higher)) != str(checksum)


def test_an_sae_that_cannot_fire_has_checksum_0() -> None:
    sae = random_form(10, 4, Relu(), "none", 3)
    nothing = replace(sae, w_enc_md=np.zeros_like(sae.w_enc_md), b_enc_m=np.full(10, -1, np.float32))
    assert str(encode_checksum(nothing)) == "0.000000e+00 (L0 0)"


def test_sites_of_other_programs() -> None:
    for name, point in {
        "transformer.h.3": HookPoint(3),
        "gpt_neox.layers.4.attention": HookPoint(4, "attn_out"),
        "model.language_model.layers.2.mlp.output": HookPoint(2, "mlp_out"),
        "model.layers.7.self_attn.o_proj.input": HookPoint(7, "attn_z"),
        "model.layers.7.post_feedforward_layernorm.output": HookPoint(7, "mlp_out"),
        "model.layers.7.input": HookPoint(7, "resid_pre"),
    }.items():
        assert HookPoint.from_foreign(name) == point
