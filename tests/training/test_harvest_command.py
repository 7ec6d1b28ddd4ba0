"""`featurewatch harvest` and `featurewatch cache` as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitor.cli.main import app
from monitor.errors import FeaturewatchError
from training.harvest.manifest import Manifest
from training.harvest.report import report, shares


def test_a_cache_is_filled_told_of_and_verified(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    words = ["harvest", str(tiny_model), "--data", str(corpus), "--hook-point", "attn_z.1", "--hook-point", "mlp_out.2"]
    words += ["--cache", str(cache), "--tokens", "600", "--context", "32", "--batch-tokens", "128", "--keep-special"]
    words += ["--heldout-share", "0.2", "--heldout-tokens", "200", "--store-dtype", "bfloat16", "--dtype", "float32"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    manifest = Manifest.load(cache)
    assert manifest.complete
    assert manifest.store_dtype == "bfloat16"
    assert manifest.settings["keep_special"] is True
    assert f"{manifest.rows:,} rows at attn_z.1, mlp_out.2" in result.output
    assert "template" in result.output
    told = CliRunner().invoke(app, ["cache", "info", str(cache)], catch_exceptions=False)
    assert f"{manifest.counts['template']:,}" in told.output
    whole = CliRunner().invoke(app, ["cache", "verify", str(cache)], catch_exceptions=False)
    assert whole.output.startswith("5 files, 0.00 GB: whole")
    (cache / "mlp_out.2" / "shard-0000.bin").write_bytes(b"\x00" * 10**6)
    with pytest.raises(FeaturewatchError, match=r"mlp_out\.2/shard-0000\.bin: its checksum"):
        CliRunner().invoke(app, ["cache", "verify", str(cache)], catch_exceptions=False)
    with pytest.raises(FeaturewatchError, match=r"it must hold manifest\.json"):
        CliRunner().invoke(app, ["cache", "info", str(tmp_path)], catch_exceptions=False)


def test_shares_are_of_the_text() -> None:
    found = shares({"bos": 10, "special": 0, "kept": 70, "outlier": 20, "padding": 500})
    assert [(share.reason, share.positions, share.share) for share in found] == [
        ("kept", 70, 0.7),
        ("outlier", 20, 0.2),
        ("bos", 10, 0.1),
    ]


def test_a_cache_of_an_older_version_is_told_of_without_norms() -> None:
    manifest = Manifest(4, ["resid_post.1"], "float16", [7], {}, counts={"kept": 7, "bos": 1})
    assert report(manifest).splitlines()[1:] == [
        "  kept                   7   87.50%",
        "  bos                    1   12.50%",
        "0 positions held out",
    ]
