"""Other packages that reach into vLLM's forward pass: measured where they can be installed, else quoted."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Peer:
    """A package on PyPI.

    Attributes:
        does: what of it can be compared with a tap.
        published: its authors' own figures, with source; on other hardware and models.
    """

    name: str
    version: str
    does: str
    published: tuple[str, ...]


PEERS = (
    Peer(
        "hotwire-vllm",
        "0.1.2",
        "adds steering vectors, captures nothing; installed and idle here. On a CPU vLLM never reaches its patch of "
        "load_model, and its operation is a Triton kernel, so no model is steered: the figure is its idle cost",
        (
            "1.78 ms a token plain, installed and idle, and all steered alike: Qwen3-4B, RTX 4070 Ti SUPER, "
            "vLLM 0.25.1, batch 8 (its README)",
        ),
    ),
    Peer(
        "vllm-lens",
        "1.3.0",
        "captures residual rows with Python hooks in eager mode",
        (
            "+12.0 % run time to capture one layer, +317 % all 80: Llama 3.3 70B, TP 4, against an eager baseline "
            "(its benchmark.ipynb)",
            "+21 % to +81 % against plain vLLM: OPT-30B on TP 1 and TP 4 (its results.ipynb)",
        ),
    ),
)


def obstacle(peer: Peer, folder: Path) -> str:
    """Installs a peer without its dependencies into `folder`; returns why it cannot run here, or an empty string."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--ignore-requires-python"]
    command += ["--target", str(folder), f"{peer.name}=={peer.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"pip could not install it: {done.stderr.strip().splitlines()[-1:]}"
    (found,) = importlib.metadata.distributions(name=peer.name, path=[str(folder)])
    wanted = found.metadata["Requires-Python"] or ""
    if platform.python_version() not in SpecifierSet(wanted):
        return f"it needs Python {wanted}, this is {platform.python_version()}" + _pin(found)
    return _pin(found).removeprefix(", ")


def _pin(found: importlib.metadata.Distribution) -> str:
    """The vLLM it insists on, if that is another one."""
    import vllm

    for text in found.requires or []:
        requirement = Requirement(text)
        if requirement.name == "vllm" and requirement.marker is None and vllm.__version__ not in requirement.specifier:
            return f", it needs vllm{requirement.specifier}, this is {vllm.__version__}"
    return ""
