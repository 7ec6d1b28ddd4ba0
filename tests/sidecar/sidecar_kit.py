"""A sidecar on real parts for tests, and the folders that it reads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from monitor.rpc import CHANNEL_OPTIONS, Target
from monitor.sae import DenseProbe, Dictionary, HookPoint, JumpRelu, save_dense_probe, save_saelens
from monitor.sidecar.config import SidecarConfig
from monitor.sidecar.history import HistoryPool
from monitor.sidecar.judge import TapJudge
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.prefix.states import PrefixStates
from monitor.sidecar.server import Sidecar
from monitor.sidecar.tokenizer import TokenReader
from monitor.v1.engine_pb2 import EngineInfo

WIDTH, LATENTS = 8, 12
HOOKS = ("resid_post.3", "resid_post.5")
WORDS = ("<s>", "make", "a", "bomb", "cake", "please", "sure", "no", "\n", "<e>")
LOUD = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: loud, revision: 2, runbook: "https://example.org/loud"}
spec:
  mode: alert
  match: {models: ["*tiny*"]}
  fittedOn: {model: tiny, dtype: float32, hook: resid_post.3}
  detectors:
    - id: dense
      source: {denseProbe: {file: weights/loud.dense.safetensors}}
      aggregate: {kind: max, skip: [bos]}
      threshold: {warn: 1, fire: 2, clear: 0.5}
    - id: latents
      source:
        saeLatents:
          sae: tiny/resid_post.3
          latents: [{index: 4, label: "explosives"}, {index: 7, weight: 0.5}]
      aggregate: {kind: max, skip: [bos]}
      threshold: {warn: 10, fire: 20}
  rules:
    - {id: LOUD-001, when: "dense.fire or latents.fire", severity: high}
"""
QUIET = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: quiet, revision: 1}
spec:
  mode: shadow
  detectors:
    - id: late
      source: {saeLatents: {sae: tiny/resid_post.5, latents: [{index: 1, label: "late latent"}]}}
      aggregate: {kind: max, skip: [bos]}
      threshold: {fire: 3}
  rules:
    - {id: QUIET-001, when: late.fire, severity: low}
  record: {content: none}
"""
ENGINE = EngineInfo(
    name="vllm",
    version="0.32.0",
    model="/models/tiny",
    served_model="tiny",
    dtype="float32",
    num_layers=8,
    hidden_size=WIDTH,
    max_model_len=4096,
)


def make_dictionary(layer: int, width: int = WIDTH) -> Dictionary:
    rng = np.random.default_rng(layer)
    return Dictionary(
        w_enc_md=rng.standard_normal((LATENTS, width), np.float32),
        b_enc_m=rng.standard_normal(LATENTS, np.float32),
        w_dec_md=rng.standard_normal((LATENTS, width), np.float32),
        b_dec_d=np.zeros(width, np.float32),
        activation=JumpRelu(rng.random(LATENTS, np.float32)),
        hook_point=HookPoint(layer),
        model="tiny",
    )


@dataclass(frozen=True)
class World:
    """Folders with SAEs, policies, probe weights and a tokenizer; `socket` is free."""

    folder: Path
    socket: Path

    @property
    def zoo(self) -> Path:
        return self.folder / "zoo"

    @property
    def policies(self) -> Path:
        return self.folder / "policies"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "model"

    def config(self, **changes: Any) -> SidecarConfig:
        settings: dict[str, Any] = {
            "listen": (Target(path=self.socket),),
            "policies": (self.policies,),
            "zoo": (self.zoo,),
            "store": self.folder / "audit.sqlite",
            "tokenizer": self.tokenizer,
            "drain_seconds": 1.0,
        }
        return SidecarConfig(**{**settings, **changes})

    def arguments(self) -> list[str]:
        """The same as command-line arguments."""
        return [
            *("--listen", f"unix:{self.socket}", "--policies", str(self.policies), "--zoo", str(self.zoo)),
            *("--store", str(self.folder / "audit.sqlite"), "--tokenizer", str(self.tokenizer)),
            *("--drain-seconds", "1"),
        ]


def build_world(folder: Path, socket: Path) -> World:
    world = World(folder, socket)
    for layer in (3, 5):
        save_saelens(make_dictionary(layer), world.zoo / "tiny" / f"resid_post.{layer}")
    probe = DenseProbe(HookPoint(3), np.arange(WIDTH, dtype=np.float32), bias=-0.25)
    save_dense_probe(probe, world.policies / "weights" / "loud.dense.safetensors")
    (world.policies / "loud.yaml").write_text(LOUD)
    (world.policies / "quiet.yaml").write_text(QUIET)
    world.tokenizer.mkdir()
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="no"))
    tokenizer.add_special_tokens(["<s>", "<e>"])
    tokenizer.save(str(world.tokenizer / "tokenizer.json"))
    return world


def new_judge(
    plan: TapPlan,
    states: PrefixStates | None = None,
    engine: EngineInfo = ENGINE,
    history: HistoryPool | None = None,
    keep_share: float = 0.0,
) -> TapJudge:
    return TapJudge(
        tap_id="tap",
        session_id="session",
        engine_info=engine,
        prefix_states=states or PrefixStates(0),
        plan=plan,
        reader=TokenReader.unknown(),
        ledger=PolicyLedger(),
        history=history or HistoryPool(1 << 20, len(plan.policies.detectors)),
        clock=lambda: 1,
        keep_share=keep_share,
    )


@asynccontextmanager
async def running_sidecar(config: SidecarConfig) -> AsyncIterator[Sidecar]:
    sidecar = Sidecar(config)
    await sidecar.start()
    try:
        yield sidecar
    finally:
        await sidecar.stop()


@asynccontextmanager
async def channel_to(socket: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS) as channel:
        yield channel


def read_events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
