"""Files that are damaged, hostile, or no SAE at all."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_files import D, Draw, M, Tensors, store
from safetensors.numpy import save_file

from monitor.errors import FeaturewatchError
from monitor.sae import Hints, HookPoint, load_dictionary, load_saelens
from monitor.sae.formats.no_sae import WHAT

HERE = Hints(hook_point=HookPoint(3), model="tiny", k=4)


def gemma(**changed: np.ndarray[Any, Any]) -> Tensors:
    draw = Draw(1)
    tensors: Tensors = {"W_enc": draw(D, M), "W_dec": draw(M, D), "b_enc": draw(M), "b_dec": draw(D)}
    return tensors | {"threshold": draw.positive(M)} | changed


def goodfire() -> Tensors:
    draw = Draw(1)
    return {
        "encoder_linear.weight": draw(M, D),
        "encoder_linear.bias": draw(M),
        "decoder_linear.weight": draw(D, M),
        "decoder_linear.bias": draw(D),
    }


# Weights that cannot be right


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (gemma(W_enc=Draw(1)(M, D)), r"W_enc of shape \[24, 6\].*it is transposed.*must have shape \[6, 24\]"),
        (gemma(W_dec=Draw(1)(M, D + 1)), r"W_dec of shape \[24, 7\]"),
        (gemma(b_enc=Draw(1)(M, 1)), r"b_enc of shape \[24, 1\].*vector"),
        (gemma(threshold=Draw(1)(M - 1)), r"threshold of shape \[23\].*\[24\]"),
        (gemma(threshold=np.full(M, -1, np.float32)), "24 negative thresholds"),
        (gemma(threshold=np.full(M, np.nan, np.float32)), "threshold with 24 NaN"),
        (gemma(W_enc=np.full((D, M), np.inf, np.float32)), "W_enc with 144 NaN or infinite"),
        (gemma(W_dec=np.full((M, D), 1e300)), "W_dec with 144 NaN or infinite"),
        (gemma(log_sparsity=Draw(1)(M)), "further tensors log_sparsity"),
        ({name: tensor for name, tensor in gemma().items() if name != "b_dec"}, "needs a tensor b_dec"),
        ({name: tensor for name, tensor in gemma().items() if name != "threshold"}, "needs a tensor threshold"),
        ({"something": Draw(1)(3)}, "tensors something and no cfg.json.*Gemma Scope"),
    ],
)
def test_wrong_tensors(tmp_path: Path, tensors: Tensors, says: str) -> None:
    store(tmp_path, tensors, weights="params.npz")
    with pytest.raises(FeaturewatchError, match=says):
        load_dictionary(tmp_path, HERE)


def test_a_square_matrix_cannot_hide_that_the_biases_do_not_fit(tmp_path: Path) -> None:
    store(tmp_path, gemma(W_enc=Draw(1)(M, M)), weights="params.npz")
    with pytest.raises(FeaturewatchError, match=r"W_enc of shape \[24, 24\]"):
        load_dictionary(tmp_path, HERE)


def test_a_threshold_that_training_never_set(tmp_path: Path) -> None:
    draw = Draw(1)
    tensors: Tensors = {
        "encoder.weight": draw(M, D),
        "encoder.bias": draw(M),
        "decoder.weight": draw(D, M),
        "b_dec": draw(D),
        "k": np.array(4, np.int32),
        "threshold": np.array(-1.0, np.float32),
    }
    config = {"trainer": {"dict_class": "BatchTopKSAE"}}
    store(tmp_path, tensors, config, weights="ae.pt", config_file="config.json")
    with pytest.raises(FeaturewatchError, match=r"threshold -1.*training ended before"):
        load_dictionary(tmp_path, HERE)


# Other things than SAEs

_X = Draw(1)(2, 2)
_CUBE = Draw(1)(2, 2, 2)


@pytest.mark.parametrize(
    ("what", "tensors", "config"),
    [
        ("transcoder", {"W_enc": _X, "W_dec": _X}, {"architecture": "skip_transcoder"}),
        ("transcoder", {"encoder.weight": _X, "W_dec": _X, "W_skip": _X}, {}),
        ("transcoder", {"encoder.weight": _X, "W_dec": _X}, {"transcode": True}),
        ("transcoder", {"w_enc": _X, "w_dec": _X, "affine_skip_connection": _X}, {}),
        ("transcoder", {"w_enc": _X}, {"hf_hook_point_in": "a.input", "hf_hook_point_out": "a.output"}),
        ("transcoder", {"W_E": _X}, {"hook_point_in": "blocks.1.ln2", "hook_point_out": "blocks.1.hook_mlp_out"}),
        ("cross-layer transcoder", {"w_enc": _X, "w_dec": _CUBE}, {}),
        ("cross-layer transcoder", {"W_E": _X}, {"sae_type": "clt"}),
        ("crosscoder", {"encoder.weight": _CUBE}, {}),
        ("crosscoder", {"encoder.weight": _X}, {"trainer": {"dict_class": "BatchTopKCrossCoder"}}),
        ("Lorsa", {"W_Q": _X, "W_K": _X}, {}),
        ("MOLT", {"U": _X}, {"sae_type": "molt"}),
        ("temporal SAE", {"D": _X, "E": _X, "b": _X}, {}),
        ("GLU encoder", {"W_E": _X, "W_E_glu": _X}, {}),
        ("signed SAE", {"W_enc": _X}, {"architecture": "abstopk"}),
        ("matching pursuit SAE", {"W_enc": _X}, {"architecture": "matching_pursuit"}),
        ("identity dictionary", {"a": _X}, {"trainer": {"dict_class": "IdentityDict"}}),
    ],
)
def test_what_is_no_sae_is_refused_by_name(
    tmp_path: Path, what: str, tensors: Tensors, config: dict[str, object]
) -> None:
    store(tmp_path, tensors, config, weights="sae_weights.safetensors")
    with pytest.raises(FeaturewatchError) as caught:
        load_dictionary(tmp_path, HERE)
    assert WHAT[what] in caught.value.subject
    assert "same site out" in caught.value.rule


# Damaged and hostile files


@pytest.mark.parametrize(
    ("name", "tensors"),
    [("params.npz", gemma()), ("a.pth", goodfire()), ("sae_weights.safetensors", gemma())],
)
@pytest.mark.parametrize("cut", [1, 40, 0.5, 0.999])
def test_truncated_files(tmp_path: Path, name: str, tensors: Tensors, cut: float) -> None:
    path = store(tmp_path, tensors, weights=name) / name
    whole = path.read_bytes()
    path.write_bytes(whole[: -int(cut)] if cut >= 1 else whole[: int(len(whole) * (1 - cut))])
    with pytest.raises(FeaturewatchError, match=r"complete"):
        load_dictionary(path, HERE)


class Dropper:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._target}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_never_run(tmp_path: Path, zipped: bool) -> None:
    target = tmp_path / "was-run"
    state: dict[str, Any] = {name: torch.from_numpy(tensor) for name, tensor in goodfire().items()}
    path = tmp_path / "sae.pt"
    torch.save({**state, "extra": Dropper(target)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(FeaturewatchError, match="it was not run"):
        load_dictionary(path, HERE)
    path.write_bytes(pickle.dumps(Dropper(target), protocol=2))
    with pytest.raises(FeaturewatchError, match="it was not run"):
        load_dictionary(path, HERE)
    assert not target.exists()


def test_an_npz_with_python_objects_is_not_opened(tmp_path: Path) -> None:
    target = tmp_path / "was-run"
    objects = np.array([Dropper(target)], dtype=object)
    np.savez(tmp_path / "params.npz", **gemma(), extra=objects, allow_pickle=True)
    with pytest.raises(FeaturewatchError, match=r"Python objects in 'extra\.npy'"):
        load_dictionary(tmp_path, HERE)
    assert not target.exists()


def test_an_npz_that_would_unpack_to_far_more_than_it_is(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "params.npz", **gemma(W_enc=np.zeros((D, 1 << 20), np.float32)))
    with pytest.raises(FeaturewatchError, match=r"would unpack to 25,1.*100 times its size"):
        load_dictionary(tmp_path, HERE)


def test_an_npz_whose_header_claims_more_than_is_there(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("W_enc.npy", header.getvalue() + bytes(64))
    with pytest.raises(FeaturewatchError, match="its header says other"):
        load_dictionary(tmp_path, HERE)


def test_a_compressed_torch_archive_is_measured_too(tmp_path: Path) -> None:
    path = tmp_path / "sae.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sae/data/0", bytes(1 << 24))
    with pytest.raises(FeaturewatchError, match="would unpack to"):
        load_dictionary(path, HERE)


def test_a_torch_tensor_that_is_far_larger_than_its_file(tmp_path: Path) -> None:
    state = {name: torch.zeros(1).expand(1 << 20) for name in ("encoder_linear.bias", "decoder_linear.bias")}
    torch.save(state, tmp_path / "sae.pt")
    with pytest.raises(FeaturewatchError, match="would unpack to 8,388,608"):
        load_dictionary(tmp_path, HERE)


def test_nobody_is_told_to_run_the_pickle(tmp_path: Path) -> None:
    torch.save({"extra": Dropper(tmp_path / "was-run")}, tmp_path / "sae.pt")
    with pytest.raises(FeaturewatchError, match=r"GLOBAL \S*system") as told:
        load_dictionary(tmp_path, HERE)
    assert "False" not in str(told.value)


@pytest.mark.parametrize("metadata", ["text", ["list"], 1])
def test_a_configuration_with_odd_values(tmp_path: Path, metadata: object) -> None:
    tensors = {"W_enc": (D, 8), "b_enc": (8,), "W_dec": (8, D), "b_dec": (D,)}
    save_file(
        {name: np.ones(shape, np.float32) for name, shape in tensors.items()}, tmp_path / "sae_weights.safetensors"
    )
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "standard", "metadata": metadata}))
    with pytest.raises(FeaturewatchError, match=r"cfg\.json.*not of the kind"):
        load_dictionary(tmp_path, HERE)
    with pytest.raises(FeaturewatchError, match=r"cfg\.json.*not of the kind"):
        load_saelens(tmp_path)


def test_a_torch_file_that_holds_no_dict(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "sae.pt")
    with pytest.raises(FeaturewatchError, match=r"holding a Tensor.*state dict"):
        load_dictionary(tmp_path, HERE)


def test_safetensors_of_a_dtype_that_is_no_weight(tmp_path: Path) -> None:
    header = json.dumps({"W_enc": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "sae.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(FeaturewatchError, match=r"F8_E4M3.*BF16"):
        load_dictionary(tmp_path, HERE)


def test_paths_that_name_no_single_sae(tmp_path: Path) -> None:
    with pytest.raises(FeaturewatchError, match="no such file or folder"):
        load_dictionary(tmp_path / "nothing", HERE)
    with pytest.raises(FeaturewatchError, match="no weights"):
        load_dictionary(tmp_path, HERE)
    for name in ("layer1.sae.pt", "layer2.sae.pt"):
        store(tmp_path, goodfire(), weights=name)
    with pytest.raises(FeaturewatchError, match=r"layer1\.sae\.pt, layer2\.sae\.pt.*[Gg]ive the file"):
        load_dictionary(tmp_path, HERE)
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(FeaturewatchError, match=r"notes\.txt.*safetensors"):
        load_dictionary(tmp_path / "notes.txt", HERE)


@pytest.mark.parametrize(("text", "says"), [("{", "must be JSON"), ("[1]", "JSON object")])
def test_a_configuration_that_is_none(tmp_path: Path, text: str, says: str) -> None:
    store(tmp_path, goodfire(), weights="a.pth")
    (tmp_path / "cfg.json").write_text(text)
    with pytest.raises(FeaturewatchError, match=says):
        load_dictionary(tmp_path, HERE)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_norm_factor_that_is_none(factor: float) -> None:
    with pytest.raises(FeaturewatchError, match="above 0"):
        Hints(norm_factor=factor)


def test_a_module_without_a_name_of_ours_and_another_k(tmp_path: Path) -> None:
    draw = Draw(1)
    tensors: Tensors = {"encoder.weight": draw(M, D), "encoder.bias": draw(M), "W_dec": draw(M, D), "b_dec": draw(D)}
    folder = store(tmp_path / "embed_tokens", tensors, {"k": 4, "d_in": D}, weights="sae.safetensors")
    with pytest.raises(FeaturewatchError, match=r"'embed_tokens'.*--hook-point"):
        load_dictionary(folder, Hints(model="tiny"))
    assert load_dictionary(folder, HERE).hook_point == HookPoint(3)
    with pytest.raises(FeaturewatchError, match=r"k 5 .*its files say 4"):
        load_dictionary(folder, Hints(hook_point=HookPoint(3), model="tiny", k=5))


@pytest.mark.parametrize("k", [0, -3])
def test_a_k_that_keeps_nothing_is_refused_for_every_family(k: int) -> None:
    with pytest.raises(FeaturewatchError, match=f"k {k}: .*at least one latent"):
        Hints(k=k)
