"""The SAELens directory layout, both ways and when it is damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint, JumpRelu, Relu, load_saelens, save_saelens

D, M = 6, 20


def random_dictionary(seed: int = 0, *, jumprelu: bool = True) -> Dictionary:
    rng = np.random.default_rng(seed)

    def floats(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return Dictionary(
        w_enc_md=floats(M, D),
        b_enc_m=floats(M),
        w_dec_md=floats(M, D),
        b_dec_d=floats(D),
        activation=JumpRelu(np.abs(floats(M))) if jumprelu else Relu(),
        hook_point=HookPoint(3),
        model="tiny",
        metadata={"l0": 4.0},
    )


def foreign_folder(folder: Path, architecture: str, config: dict[str, object] | None = None) -> dict[str, np.ndarray]:
    """A folder as sae-lens writes it: W_enc [d, m], b_dec subtracted from the input unless told otherwise."""
    rng = np.random.default_rng(1)
    tensors = {
        "W_enc": rng.standard_normal((D, M)),
        "b_enc": rng.standard_normal(M),
        "W_dec": rng.standard_normal((M, D)),
        "b_dec": rng.standard_normal(D),
        "threshold": np.abs(rng.standard_normal(M)),
    }
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    if architecture != "jumprelu":
        del tensors["threshold"]
    folder.mkdir(parents=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    metadata = {"hook_name": "blocks.3.hook_resid_post", "model_name": "tiny"}
    settings = {"architecture": architecture, "d_in": D, "d_sae": M, "metadata": metadata, **(config or {})}
    (folder / "cfg.json").write_text(json.dumps(settings))
    return tensors


@pytest.mark.parametrize("jumprelu", [True, False])
def test_what_is_stored_is_what_is_read(tmp_path: Path, jumprelu: bool) -> None:
    stored = random_dictionary(jumprelu=jumprelu)
    read = load_saelens(save_saelens(stored, tmp_path / "sae"))
    x_nd = np.random.default_rng(2).standard_normal((50, D)).astype(np.float32)
    f_nm = stored.encode(x_nd)
    np.testing.assert_array_equal(read.encode(x_nd), f_nm)
    np.testing.assert_array_equal(read.decode(f_nm), stored.decode(f_nm))
    assert (read.hook_point, read.model, read.metadata["l0"]) == (HookPoint(3), "tiny", 4.0)
    assert len(read.sha256) == 64


def test_float16_halves_the_file_and_keeps_thresholds_exact(tmp_path: Path) -> None:
    stored = random_dictionary()
    folder = save_saelens(stored, tmp_path / "sae", dtype="float16")
    tensors = load_file(folder / "sae_weights.safetensors")
    assert tensors["W_enc"].dtype == np.float16
    assert tensors["W_enc"].shape == (D, M)
    read = load_saelens(folder)
    assert isinstance(read.activation, JumpRelu)
    assert isinstance(stored.activation, JumpRelu)
    np.testing.assert_array_equal(read.activation.threshold_m, stored.activation.threshold_m)
    np.testing.assert_array_equal(read.w_enc_md, stored.w_enc_md.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
@pytest.mark.parametrize("subtracts", [True, False])
def test_foreign_folder_follows_the_saelens_forward_pass(tmp_path: Path, architecture: str, subtracts: bool) -> None:
    tensors = foreign_folder(tmp_path / "sae", architecture, {"apply_b_dec_to_input": subtracts})
    x_nd = np.random.default_rng(3).standard_normal((40, D)).astype(np.float32)
    pre_nm = (x_nd - tensors["b_dec"] * subtracts) @ tensors["W_enc"] + tensors["b_enc"]
    expected_nm = np.maximum(pre_nm, 0)
    if architecture == "jumprelu":
        expected_nm *= pre_nm > tensors["threshold"]
    read = load_saelens(tmp_path / "sae")
    np.testing.assert_allclose(read.encode(x_nd), expected_nm, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        read.decode(expected_nm), expected_nm @ tensors["W_dec"] + tensors["b_dec"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architecture": "skip_crosscoder"}, "'skip_crosscoder'"),
        ({"architecture": "topk"}, "k None"),
        ({"architecture": "topk", "k": 2.5}, r"k 2\.5"),
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening.*Export"),
        ({"normalize_activations": "expected_average_only_in"}, "--norm-factor"),
        ({"reshape_activations": "hook_z"}, "hook_z.*resid_post"),
        ({"reshape_activations": "hook_q"}, "hook_q"),
        ({"activation_fn": "tanh-relu"}, "tanh-relu"),
        ({"d_in": D + 1}, f"width {D + 1}"),
        ({"d_sae": M + 1}, f"latents {M + 1}"),
        ({"metadata": {"hook_name": "blocks.3.hook_resid_mid"}}, "hook_resid_mid"),
        ({"metadata": {}}, "hook_name"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, config: dict[str, object], says: str) -> None:
    foreign_folder(tmp_path / "sae", "jumprelu", config)
    with pytest.raises(FeaturewatchError, match=says):
        load_saelens(tmp_path / "sae")


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(FeaturewatchError, match=r"must hold cfg\.json"):
        load_saelens(tmp_path / "nothing")
    foreign_folder(tmp_path / "sae", "jumprelu")
    weights = tmp_path / "sae" / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-40])
    with pytest.raises(FeaturewatchError, match="safetensors"):
        load_saelens(tmp_path / "sae")
    tensors = {
        name: tensor for name, tensor in foreign_folder(tmp_path / "b", "jumprelu").items() if name != "threshold"
    }
    save_file(tensors, weights)
    with pytest.raises(FeaturewatchError, match="needs a tensor threshold"):
        load_saelens(tmp_path / "sae")
    tensors["threshold"] = np.full(M, np.nan, np.float32)
    save_file(tensors, weights)
    with pytest.raises(FeaturewatchError, match="20 NaN or infinite"):
        load_saelens(tmp_path / "sae")


def test_a_width_that_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(FeaturewatchError, match=r"width 6.*tiny-2 has width 576"):
        random_dictionary().require_width(576, "tiny-2")
