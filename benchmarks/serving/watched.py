"""Something to judge: random SAEs and a policy that watches all their latents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monitor.sae import Dictionary, HookPoint, JumpRelu, save_saelens
from serving.load import SERVED


def write_policy(folder: Path, hook_points: Sequence[HookPoint], width: int, directions: int) -> Path:
    """A zoo (`folder/zoo`) and a folder of one policy in shadow mode. The work per row does not depend on what the
    latents mean; thresholds are out of reach, so nothing fires."""
    chance = np.random.default_rng(0)
    detectors = []
    for point in hook_points:
        weights_md = (chance.normal(size=(directions, width)) / np.sqrt(width)).astype(np.float32)
        zeros_m = np.zeros(directions, np.float32)
        sae = Dictionary(
            w_enc_md=weights_md,
            b_enc_m=zeros_m,
            w_dec_md=weights_md,
            b_dec_d=np.zeros(width, np.float32),
            activation=JumpRelu(zeros_m + 0.5),
            hook_point=point,
            model=SERVED,
        )
        save_saelens(sae, folder / "zoo" / SERVED / str(point))
        latents = ", ".join(f"{{index: {index}}}" for index in range(directions))
        detectors.append(
            f"    - id: d{point.layer}\n"
            f"      source: {{saeLatents: {{sae: {SERVED}/{point}, latents: [{latents}], combine: weighted_sum}}}}\n"
            "      aggregate: {kind: ema, halfLife: 8}\n"
            "      threshold: {fire: 1.0e+30}\n"
        )
    when = " or ".join(f"d{point.layer}.fire" for point in hook_points)
    policy = folder / "policies" / "bench.yaml"
    policy.parent.mkdir()
    policy.write_text(
        "apiVersion: monitor/v1\nkind: Policy\n"
        "metadata: {name: bench, revision: 1, owner: bench, status: test}\n"
        "spec:\n  mode: shadow\n  match: {models: ['*'], phases: [prompt, response]}\n"
        f"  detectors:\n{''.join(detectors)}"
        f"  rules:\n    - {{id: BENCH-1, when: '{when}', for: 1 tokens, severity: low, actions: [alert]}}\n"
    )
    return policy.parent
