"""Cross-entropy and KL divergence with a dictionary in place equal a splice by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_saes import constant_sae, exact_sae, random_sae
from transformers import AutoModelForCausalLM

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint
from training.evaluation.splice import measure_splice
from training.harvest.tokens import Reason, TokenSequence

WIDTH = 32


def _sequences(lengths: tuple[int, ...] = (14, 9, 14)) -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    found = []
    for length in lengths:
        reasons_n = np.full(length, Reason.KEPT, np.uint8)
        reasons_n[0] = Reason.BOS
        reasons_n[3] = Reason.TEMPLATE
        reasons_n[5] = Reason.OUTLIER
        found.append(TokenSequence(rng.integers(3, 200, length).astype(np.int32), reasons_n, True))
    return found


class _ByHand:
    """A model whose kept rows at a site are changed in one place, sequence by sequence and without padding."""

    def __init__(self, model: Path) -> None:
        self.network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def module(self, point: HookPoint) -> tuple[torch.nn.Module, bool]:
        layer = self.network.model.layers[point.layer]
        return {
            "resid_pre": (layer, True),
            "resid_post": (layer, False),
            "attn_out": (layer.self_attn, False),
            "attn_z": (layer.self_attn.o_proj, True),
            "mlp_out": (layer.mlp, False),
        }[point.site]

    def rows(self, sequence: TokenSequence, point: HookPoint) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        self._logits(sequence, point, lambda rows_td: seen.append(rows_td.clone()) or rows_td)
        return seen[0]

    def log_p(self, sequence: TokenSequence, point: HookPoint, change: object) -> torch.Tensor:
        """Log-probabilities before the kept tokens, [n, v]."""
        logits_tv = self._logits(sequence, point, change)
        return logits_tv[:-1][torch.from_numpy(sequence.reasons_n[1:] == Reason.KEPT)].log_softmax(-1)

    @torch.inference_mode()
    def _logits(self, sequence: TokenSequence, point: HookPoint, change: object) -> torch.Tensor:
        module, is_input = self.module(point)

        def changed(value: torch.Tensor) -> torch.Tensor:
            return change(value[0])[None]  # type: ignore[operator]

        def before(_module: object, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (changed(inputs[0]), *inputs[1:])

        def after(_module: object, _inputs: object, output: object) -> object:
            return (changed(output[0]), *output[1:]) if isinstance(output, tuple) else changed(output)  # type: ignore[arg-type]

        hook = module.register_forward_pre_hook(before) if is_input else module.register_forward_hook(after)
        ids = torch.from_numpy(sequence.token_ids_n.astype(np.int64))[None]
        logits_tv = self.network(input_ids=ids, use_cache=False).logits[0]
        hook.remove()
        return logits_tv


@pytest.fixture(scope="module")
def by_hand(tiny_model: Path) -> _ByHand:
    return _ByHand(tiny_model)


@pytest.mark.parametrize("site", ["resid_pre", "attn_z", "attn_out", "mlp_out", "resid_post"])
def test_losses_equal_a_splice_by_hand(by_hand: _ByHand, tiny_model: Path, site: str) -> None:
    point = HookPoint(1, site)
    sequences, sae = _sequences(), random_sae(WIDTH, 48, point=point)
    mean_d = np.linspace(-1, 1, WIDTH, dtype=np.float32)
    found = measure_splice(str(tiny_model), {"it": sae}, {point: mean_d}, sequences, 32)["it"]

    def replaced(new: object) -> object:
        def change(sequence: TokenSequence) -> object:
            kept_n = sequence.reasons_n == Reason.KEPT

            def of_rows(rows_td: torch.Tensor) -> torch.Tensor:
                out_td = rows_td.clone()
                out_td[kept_n] = torch.from_numpy(np.array(new(rows_td[kept_n].numpy()), np.float32))  # type: ignore[operator]
                return out_td

            return of_rows

        return change

    changes = {
        "clean": lambda _sequence: lambda rows_td: rows_td,
        "spliced": replaced(lambda rows_nd: sae.decode(sae.encode(rows_nd))),
        "zeroed": replaced(np.zeros_like),
        "averaged": replaced(lambda rows_nd: np.broadcast_to(mean_d, rows_nd.shape)),
    }
    log_p: dict[str, torch.Tensor] = {
        name: torch.cat([by_hand.log_p(s, point, change(s)) for s in sequences]) for name, change in changes.items()
    }
    targets_n = np.concatenate([s.token_ids_n[1:][s.reasons_n[1:] == Reason.KEPT] for s in sequences])
    assert found.tokens == len(targets_n) == log_p["clean"].shape[0]
    losses = {name: float(-p_nv[np.arange(len(targets_n)), targets_n].mean()) for name, p_nv in log_p.items()}
    for name, loss in losses.items():
        assert getattr(found, name).value == pytest.approx(loss, rel=1e-4), name
    clean_nv = log_p["clean"]
    divergences = {
        name: float((clean_nv.exp() * (clean_nv - p_nv)).sum(-1).mean())
        for name, p_nv in log_p.items()
        if name != "clean"
    }
    for name, divergence in divergences.items():
        assert getattr(found, f"kl_{name}").value == pytest.approx(divergence, rel=1e-3, abs=1e-6), name
        assert divergence > 1e-4
    gap = losses["zeroed"] - losses["clean"]
    assert found.recovered.value == pytest.approx((losses["zeroed"] - losses["spliced"]) / gap, rel=1e-2)
    kl_share = divergences["spliced"] / divergences["averaged"]
    assert found.kl_recovered_from_mean.value == pytest.approx(1 - kl_share, rel=1e-2, abs=1e-3)
    same = (log_p["spliced"].argmax(-1) == clean_nv.argmax(-1)).float().mean()
    assert found.same_top.value == pytest.approx(float(same))
    assert found.clean.low is not None


def test_an_exact_dictionary_recovers_all_and_an_empty_one_nothing(tiny_model: Path) -> None:
    """Several dictionaries and hook points share one clean pass."""
    points = [HookPoint(1), HookPoint(2)]
    dictionaries: dict[str, Dictionary] = {
        "exact": exact_sae(WIDTH, points[0]),
        "nothing": constant_sae(np.zeros(WIDTH), points[0]),
        "mean": constant_sae(np.ones(WIDTH), points[1]),
    }
    means = dict.fromkeys(points, np.ones(WIDTH, np.float32))
    found = measure_splice(str(tiny_model), dictionaries, means, _sequences(), 64)
    assert found["exact"].recovered.value == pytest.approx(1, abs=1e-4)
    assert found["exact"].kl_recovered.value == pytest.approx(1, abs=1e-4)
    assert found["exact"].same_top.value == 1
    assert found["nothing"].recovered.value == pytest.approx(0, abs=1e-4)
    assert found["nothing"].kl_recovered.value == pytest.approx(0, abs=1e-4)
    assert found["mean"].recovered_from_mean.value == pytest.approx(0, abs=1e-4)
    assert found["mean"].clean == found["exact"].clean


def test_text_whose_loss_no_dictionary_can_change_is_told(tiny_model: Path) -> None:
    reasons_n = np.full(12, Reason.TEMPLATE, np.uint8)
    reasons_n[-1] = Reason.KEPT
    sequence = TokenSequence(np.arange(3, 15, dtype=np.int32), reasons_n, True)
    with pytest.raises(FeaturewatchError, match="too little text to measure"):
        measure_splice(
            str(tiny_model), {"it": exact_sae(WIDTH)}, {HookPoint(1): np.zeros(WIDTH, np.float32)}, [sequence], 64
        )
