"""`featurewatch train` under torchrun: two processes write the one SAE that one process would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from monitor.cli.main import app
from monitor.sae import load_saelens

POINT = "resid_post.1"
SECONDS = 240
# Only rank 0 of a launcher that is started here reads these; the others must not leak into it.
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def _arguments(model: Path, corpus: Path, folder: Path, *more: str) -> list[str]:
    sizes = "--tokens 3000 --context 96 --batch-tokens 768 --heldout-share 0.4 --heldout-tokens 20000 --dtype float32"
    training = "--expansion 4 -k 6 --epochs 2 --batch-rows 128 --card-tokens 20000 --loss-tokens 600"
    tolerance = "--threshold-tolerance 0.5"
    places = ["--data", str(corpus), "--out", str(folder / "zoo"), "--cache", str(folder / "cache")]
    words = [*sizes.split(), *training.split(), *tolerance.split(), "--hook-point", POINT, *more]
    return ["train", str(model), *places, *words]


def _torchrun(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "-m", "monitor.cli.main", *arguments],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_two_processes_with_other_latents_each_write_one_sae(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    two = _torchrun(_arguments(tiny_model, corpus, tmp_path / "two", "--layout", "latents"))
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("positions held out") == 1  # only the first rank reports
    alone = CliRunner().invoke(app, _arguments(tiny_model, corpus, tmp_path / "one"), catch_exceptions=False)
    assert alone.exit_code == 0
    together, single = (load_saelens(tmp_path / name / "zoo" / POINT) for name in ("two", "one"))
    assert together.num_latents == 128
    # Stored in float16; the sums over ranks are taken in another order.
    np.testing.assert_allclose(together.w_dec_md, single.w_dec_md, atol=2e-3)
    np.testing.assert_allclose(together.b_enc_m, single.b_enc_m, atol=2e-2)


def test_a_batch_that_two_processes_cannot_share_is_refused(
    tiny_model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(app, _arguments(tiny_model, corpus, tmp_path, "--batch-rows", "129"))
    assert "129 rows on 2 ranks" in str(result.exception)
    assert not (tmp_path / "zoo").exists()
    assert not (tmp_path / "cache").exists()


def test_a_stream_on_two_processes_is_refused(
    tiny_model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(app, _arguments(tiny_model, corpus, tmp_path, "--stream"))
    assert "stream on 2 ranks" in str(result.exception)
