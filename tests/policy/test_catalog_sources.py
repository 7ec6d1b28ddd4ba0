"""What policies name, read from disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from zoo_samples import LATENTS, SAE, WIDTH, write_policy, write_zoo

from monitor.errors import FeaturewatchError
from monitor.policy import SaeProbeInfo, compile_policies, parse_policy
from monitor.sae import Catalog
from monitor.sidecar.sources import CatalogSources


@pytest.fixture
def sources(tmp_path: Path) -> CatalogSources:
    return CatalogSources(Catalog([write_zoo(tmp_path)]), write_policy(tmp_path).parent)


def test_describes_what_the_files_hold(sources: CatalogSources) -> None:
    sae = sources.sae(SAE)
    assert (sae.hook_point, sae.num_latents, sae.width) == ("resid_post.14", LATENTS, WIDTH)
    assert sae.sha256 == sources.dictionary(SAE).sha256
    dense = sources.dense_probe("weights/harm.dense.safetensors")
    assert (dense.hook_point, dense.width, len(dense.sha256)) == ("resid_post.9", WIDTH, 64)
    probe = sources.sae_probe("weights/harm.sae.safetensors")
    assert probe == SaeProbeInfo(SAE, (7, 5), (0.5, -1.0), 0.25, probe.sha256)
    np.testing.assert_array_equal(sources.dense_weights("weights/harm.dense.safetensors").weight_d, np.ones(WIDTH))


def test_a_policy_compiles_from_files(tmp_path: Path, sources: CatalogSources) -> None:
    text = (tmp_path / "policies" / "harm.yaml").read_text()
    compiled = compile_policies([parse_policy(text)], sources)
    assert [direction.index for direction in compiled.directions] == [-1, 2, 5, 7]


def test_unknown_and_damaged_files_are_told_as_value_rule_and_remedy(tmp_path: Path, sources: CatalogSources) -> None:
    (tmp_path / "policies" / "weights" / "bad.safetensors").write_bytes(b"no tensors")
    for name, find in [
        ("tiny/resid_post.15", sources.sae),
        ("weights/none.safetensors", sources.dense_probe),
        ("weights", sources.dense_probe),
        ("weights/bad.safetensors", sources.dense_probe),
        ("weights/bad.safetensors", sources.sae_probe),
        ("weights/harm.dense.safetensors", sources.sae_probe),
        ("x" * 5000, sources.dense_probe),
    ]:
        with pytest.raises(FeaturewatchError) as caught:
            find(name)
        assert caught.value.rule
        assert caught.value.remedy


def test_a_file_that_may_not_be_read(tmp_path: Path, sources: CatalogSources, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: object, **options: object) -> bytes:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FeaturewatchError, match="Permission denied"):
        sources.sae(SAE)
