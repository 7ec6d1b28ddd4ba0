"""Probe files and the search for dictionaries by id."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from monitor.errors import FeaturewatchError
from monitor.sae import (
    Catalog,
    DenseProbe,
    Dictionary,
    HookPoint,
    Relu,
    SaeProbe,
    load_dense_probe,
    load_sae_probe,
    save_dense_probe,
    save_sae_probe,
    save_saelens,
)


def store_sae(folder: Path) -> None:
    eye = np.eye(3, dtype=np.float32)
    zeros = np.zeros(3, np.float32)
    save_saelens(Dictionary(eye, zeros, eye, zeros, Relu(), HookPoint(1), "tiny"), folder)


def test_probes_survive_storing(tmp_path: Path) -> None:
    dense = DenseProbe(HookPoint(14), np.arange(4, dtype=np.float32), -0.5)
    save_dense_probe(dense, tmp_path / "w" / "dense.safetensors")
    read = load_dense_probe(tmp_path / "w" / "dense.safetensors")
    np.testing.assert_array_equal(read.weight_d, dense.weight_d)
    assert (read.hook_point, read.bias) == (HookPoint(14), -0.5)
    sparse = SaeProbe("zoo/a", np.array([5, 2]), np.array([1.5, -2.0], np.float32), 0.25)
    save_sae_probe(sparse, tmp_path / "sae.safetensors")
    again = load_sae_probe(tmp_path / "sae.safetensors")
    assert (again.sae, again.latents_k.tolist(), again.weight_k.tolist(), again.bias) == (
        "zoo/a",
        [5, 2],
        [1.5, -2],
        0.25,
    )


def test_a_probe_of_the_other_kind_or_none_at_all_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "probe.safetensors"
    save_dense_probe(DenseProbe(HookPoint(1), np.ones(3, np.float32), 0.0), path)
    with pytest.raises(FeaturewatchError, match="denseProbe"):
        load_sae_probe(path)
    with pytest.raises(FeaturewatchError, match="no such file"):
        load_dense_probe(tmp_path / "other.safetensors")
    path.write_bytes(b"not a tensor file")
    with pytest.raises(FeaturewatchError, match="safetensors format"):
        load_dense_probe(path)
    metadata = {"kind": "denseProbe", "hook_point": "resid_post.1"}
    save_file({"weight": np.array([np.inf], np.float32), "bias": np.zeros(1, np.float32)}, path, metadata=metadata)
    with pytest.raises(FeaturewatchError, match="finite"):
        load_dense_probe(path)


def test_catalog_finds_by_id_and_names_the_nearest(tmp_path: Path) -> None:
    store_sae(tmp_path / "zoo" / "tiny" / "resid_post.1")
    store_sae(tmp_path / "more" / "other" / "resid_post.2")
    catalog = Catalog([tmp_path / "zoo", tmp_path / "more", tmp_path / "absent"])
    assert catalog.ids() == ["other/resid_post.2", "tiny/resid_post.1"]
    assert catalog.load("tiny/resid_post.1") is catalog.load("tiny/resid_post.1")
    with pytest.raises(FeaturewatchError, match=r"did you mean|Did you mean 'tiny/resid_post\.1'"):
        catalog.load("tiny/resid_post.2x")


def test_catalog_does_not_leave_its_roots(tmp_path: Path) -> None:
    store_sae(tmp_path / "outside")
    (tmp_path / "zoo").mkdir()
    with pytest.raises(FeaturewatchError, match="no such SAE"):
        Catalog([tmp_path / "zoo"]).load("../outside")


def test_an_id_that_no_path_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeaturewatchError, match="no such SAE"):
        Catalog([tmp_path]).path("tiny\0/resid_post.1")
