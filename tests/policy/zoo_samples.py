"""A folder with a tiny SAE and probes on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from policy_samples import GOOD

from monitor.sae import (
    DenseProbe,
    Dictionary,
    HookPoint,
    Relu,
    SaeProbe,
    save_dense_probe,
    save_sae_probe,
    save_saelens,
)

SAE = "tiny/resid_post.14"
WIDTH, LATENTS = 8, 10


def write_zoo(root: Path) -> Path:
    """The SAE of `policy_samples.GOOD`; returns the zoo folder."""
    rng = np.random.default_rng(0)
    dictionary = Dictionary(
        w_enc_md=rng.normal(size=(LATENTS, WIDTH)).astype(np.float32),
        b_enc_m=np.zeros(LATENTS, np.float32),
        w_dec_md=rng.normal(size=(LATENTS, WIDTH)).astype(np.float32),
        b_dec_d=np.zeros(WIDTH, np.float32),
        activation=Relu(),
        hook_point=HookPoint(14),
        model="tiny",
    )
    save_saelens(dictionary, root / "zoo" / SAE)
    return root / "zoo"


def write_policy(root: Path, text: str = GOOD, name: str = "harm.yaml") -> Path:
    """A policy file with its probes; returns the file."""
    folder = root / "policies"
    dense = DenseProbe(HookPoint(9), np.ones(WIDTH, np.float32), 0.5)
    save_dense_probe(dense, folder / "weights" / "harm.dense.safetensors")
    probe = SaeProbe(SAE, np.array([7, 5]), np.array([0.5, -1.0], np.float32), 0.25)
    save_sae_probe(probe, folder / "weights" / "harm.sae.safetensors")
    (folder / name).write_text(text)
    return folder / name
