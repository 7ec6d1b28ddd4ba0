"""SAEs by Hub id: against a small server that speaks the Hub's protocol, and out of the local cache. No network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from foreign_files import D, Draw, M, Tensors, rows, store

from monitor.errors import FeaturewatchError
from monitor.sae import Hints, HookPoint, load_dictionary
from monitor.sae.formats.hub import HubId, fetch, wanted_files

REPOSITORY = "EleutherAI/sae-tiny-8x"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sparsify_files(root: Path) -> Path:
    draw = Draw(1)
    tensors: Tensors = {"encoder.weight": draw(M, D), "encoder.bias": draw(M), "W_dec": draw(M, D), "b_dec": draw(D)}
    for layer in (1, 2):
        store(root / f"layers.{layer}", tensors, {"k": 3, "d_in": D}, weights="sae.safetensors")
    (root / "config.json").write_text(json.dumps({"model": "tiny-lm"}))
    return root


class TransportError(Exception):
    """What the client's HTTP package raises; its name changes between versions."""


class FakeHub(ThreadingHTTPServer):
    """Serves one repository's files, and notes which were downloaded."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.root = root
        self.served: list[str] = []
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        root = self.server.root
        if self.path.startswith(f"/api/models/{REPOSITORY}/tree/main"):
            files = [path for path in sorted(root.rglob("*")) if path.is_file()]
            entries = [
                {"type": "file", "path": path.relative_to(root).as_posix(), "size": path.stat().st_size, "oid": "0"}
                for path in files
            ]
            return self._send(json.dumps(entries).encode(), "application/json", body=body)
        if self.path.startswith(f"/api/models/{REPOSITORY}"):
            names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]
            info = {"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            return self._send(json.dumps(info).encode(), "application/json", body=body)
        name = self.path.removeprefix(f"/{REPOSITORY}/resolve/main/")
        if name == self.path or not (root / name).is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound" if REPOSITORY not in self.path else "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        if body:
            self.server.served.append(name)
        return self._send((root / name).read_bytes(), "application/octet-stream", body=body)

    def _send(self, data: bytes, kind: str, *, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = FakeHub(sparsify_files(tmp_path / "repository"))
    yield server
    server.shutdown()
    server.server_close()


def test_only_the_files_of_one_sae_are_downloaded(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub_id = HubId.parse(f"hf:{REPOSITORY}/layers.2")
    folder = fetch(hub_id, tmp_path / "cache", hub.address)
    assert sorted(hub.served) == ["config.json", "layers.2/cfg.json", "layers.2/sae.safetensors"]
    local = load_dictionary(hub.root / "layers.2")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    sae = load_dictionary(f"hf:{REPOSITORY}/layers.2", cache=tmp_path / "cache")
    np.testing.assert_array_equal(sae.encode(rows()), local.encode(rows()))
    assert (sae.hook_point, sae.model, sae.sha256) == (HookPoint(2), "tiny-lm", local.sha256)
    assert sae.metadata["source"] == f"{REPOSITORY}/layers.2"
    assert folder.is_relative_to(tmp_path / "cache")


def test_an_id_that_names_no_single_sae_lists_what_there_is(tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(FeaturewatchError, match=r"no files of weights.*layers\.1/sae\.safetensors"):
        fetch(HubId.parse(f"hf:{REPOSITORY}"), tmp_path / "cache", hub.address)
    assert hub.served == []


def test_an_unknown_repository(tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(FeaturewatchError, match="no such repository or revision"):
        fetch(HubId.parse("hf:nobody/nothing/x"), tmp_path / "cache", hub.address)


@pytest.mark.parametrize("offline", [True, False])
def test_an_sae_that_is_not_cached_when_the_hub_is_away(
    tmp_path: Path, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi, constants

    def unreachable(*args: object, **kwargs: object) -> list[str]:
        raise TransportError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    if not offline:
        # The client itself would try again for half a minute.
        monkeypatch.setattr(HfApi, "list_repo_files", unreachable)
    nobody = "http://127.0.0.1:9"
    with pytest.raises(FeaturewatchError, match=r"cannot be reached.*HF_HOME"):
        fetch(HubId.parse(f"hf:{REPOSITORY}/layers.2"), tmp_path / "cache", nobody)


@pytest.mark.parametrize(
    "text",
    [
        "hf:owner",
        "hf:owner/repository/../../etc",
        "hf:owner/repository/./a",
        "hf:owner/repository//a",
        "hf:../repository/a",
        "hf:owner/repository/a@../../main",
        "hf:owner/repository/a\\..\\b",
        "hf:owner/repository/.git",
        "hf:owner/repository/a\x00",
        "hf:",
    ],
)
def test_ids_that_lead_elsewhere_are_refused(text: str) -> None:
    with pytest.raises(FeaturewatchError, match="hf:owner/repository/path"):
        HubId.parse(text)


def test_ids_are_read() -> None:
    assert HubId.parse("hf:a/b/c/d.pt@v1.0") == HubId("a/b", "c/d.pt", "v1.0")
    assert HubId.parse("hf:a/b") == HubId("a/b", "", "main")


def test_which_files_belong_to_an_sae() -> None:
    files = [
        "README.md",
        "config.json",
        "layer_1/a/params.npz",
        "layer_1/b/params.npz",
        "L13R/hyperparams.json",
        "L13R/checkpoints/final.safetensors",
        "layer1.sae.pt",
        "layer2.sae.pt",
        "s/cfg.json",
        "s/sae_weights.safetensors",
        "s/sparsity.safetensors",
    ]

    def wanted(path: str) -> list[str]:
        return wanted_files(HubId("a/b", path, "main"), files)

    assert wanted("layer_1/a") == ["layer_1/a/params.npz", "config.json"]
    assert wanted("layer2.sae.pt") == ["layer2.sae.pt", "config.json"]
    assert wanted("L13R") == ["L13R/checkpoints/final.safetensors", "L13R/hyperparams.json", "config.json"]
    assert wanted("s") == ["s/sae_weights.safetensors", "s/cfg.json", "config.json"]
    for path in ("", "layer_1", "nothing"):
        with pytest.raises(FeaturewatchError, match="the whole path"):
            wanted(path)


def test_the_path_on_the_hub_says_what_the_file_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    snapshot = tmp_path / "models--Qwen--SAE-Res-Qwen3-8B-W1K-L0_50" / "snapshots" / COMMIT
    draw = Draw(1)
    tensors: Tensors = {"W_enc": draw(1024, D), "W_dec": draw(D, 1024), "b_enc": draw(1024), "b_dec": draw(D)}
    store(snapshot, tensors, weights="layer7.sae.pt")
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    sae = load_dictionary("hf:Qwen/SAE-Res-Qwen3-8B-W1K-L0_50/layer7.sae.pt", Hints(), cache=tmp_path)
    assert (sae.hook_point, sae.model) == (HookPoint(7), "Qwen/Qwen3-8B")
    assert (np.count_nonzero(sae.encode(rows()), axis=1) == 50).all()
