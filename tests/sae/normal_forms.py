"""Random dictionaries of every normal form."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from monitor.sae import Activation, Dictionary, GroupMax, HookPoint, InputNorm, JumpRelu, Relu, TopK
from monitor.sae.hook_point import SITES


def random_form(m: int, d: int, activation: Activation, input_norm: InputNorm, seed: int) -> Dictionary:
    rng = np.random.default_rng(seed)
    return Dictionary(
        w_enc_md=rng.standard_normal((m, d), np.float32),
        b_enc_m=rng.standard_normal(m, np.float32),
        w_dec_md=rng.standard_normal((m, d), np.float32),
        b_dec_d=rng.standard_normal(d, np.float32),
        activation=activation,
        hook_point=HookPoint(seed % 30, SITES[seed % len(SITES)]),
        model=f"model-{seed}",
        input_norm=input_norm,
    )


@st.composite
def normal_forms(draw: st.DrawFn) -> Dictionary:
    m, d = draw(st.integers(1, 24)), draw(st.integers(2, 7))
    seed = draw(st.integers(0, 10_000))
    activation = draw(
        st.one_of(
            st.just(Relu()),
            st.just(JumpRelu(np.random.default_rng(seed + 1).random(m, np.float32) * 2)),
            st.integers(1, m).map(TopK),
            st.sampled_from([groups for groups in range(1, m + 1) if m % groups == 0]).map(GroupMax),
        )
    )
    norm: InputNorm = draw(st.sampled_from(("none", "layer_norm", "unit_norm")))
    return random_form(m, d, activation, norm, seed)
