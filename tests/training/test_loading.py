"""What is said of a model that cannot be loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from monitor.errors import FeaturewatchError
from training.harvest.loading import load_quietly
from training.harvest.network import load_whole_network


def test_weights_that_are_cut_off_are_told(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(FeaturewatchError, match=r"\.safetensors files must be whole\. Fetch the model again"):
        load_whole_network(str(tmp_path / "model"), torch.float32)


@pytest.mark.parametrize("message", ["\nsome-package is not installed\n", ""])
def test_a_missing_package_is_told(message: str) -> None:
    def load() -> None:
        raise ImportError(message)

    with pytest.raises(
        FeaturewatchError, match=rf"\({message.strip() or 'ImportError'}\): transformers needs a package"
    ):
        load_quietly("some/model", load)
