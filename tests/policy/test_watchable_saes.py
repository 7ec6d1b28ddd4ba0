"""Policies take SAEs whose latents can be computed one by one from a row of resid_post, and tell why others do not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from policy_samples import GOOD
from zoo_samples import SAE, WIDTH, write_policy, write_zoo

from monitor.errors import FeaturewatchError
from monitor.policy import PolicyError
from monitor.sae import Catalog, DenseProbe, HookPoint, InputNorm, TopK, load_saelens, save_dense_probe, save_saelens
from monitor.sidecar.policy_book import PolicyBook
from monitor.sidecar.sources import CatalogSources


def catalog_with(root: Path, **changed: object) -> Catalog:
    zoo = write_zoo(root)
    save_saelens(dataclasses.replace(load_saelens(zoo / SAE), **changed), zoo / SAE)  # type: ignore[arg-type]
    return Catalog([zoo])


def test_a_topk_sae_is_refused_with_the_way_to_a_threshold(tmp_path: Path) -> None:
    catalog = catalog_with(tmp_path, activation=TopK(3))
    with pytest.raises(FeaturewatchError, match=r"TopK.*featurewatch sae convert.*--threshold-from"):
        CatalogSources(catalog, tmp_path).sae(SAE)
    with pytest.raises(PolicyError, match=r"depends there on all others.*--threshold-from"):
        PolicyBook.load([write_policy(tmp_path, GOOD)], catalog)


@pytest.mark.parametrize("rule", ["layer_norm", "unit_norm"])
def test_an_sae_of_normalised_rows_is_refused(tmp_path: Path, rule: InputNorm) -> None:
    with pytest.raises(FeaturewatchError, match=f"{rule}.*as the model has it"):
        CatalogSources(catalog_with(tmp_path, input_norm=rule), tmp_path).sae(SAE)


def test_another_site_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeaturewatchError, match=r"mlp_out\.14.*reads resid_post"):
        CatalogSources(catalog_with(tmp_path, hook_point=HookPoint(14, "mlp_out")), tmp_path).sae(SAE)
    probe = DenseProbe(HookPoint(9, "attn_out"), np.ones(WIDTH, np.float32), 0.5)
    save_dense_probe(probe, tmp_path / "dense.safetensors")
    with pytest.raises(FeaturewatchError, match=r"attn_out\.9.*reads resid_post"):
        CatalogSources(Catalog([]), tmp_path).dense_probe("dense.safetensors")
