"""An engine that is none: a Hugging Face model whose rows go through the tap's own writer, in chunks as vLLM's do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from monitor.sae import HookPoint
from monitor.sae.row_log import RowLogHeader
from monitor.tap.encode import HostPayload
from monitor.tap.record import Begin, End, HostRows, Segment, Step
from monitor.tap.recorder.ring import as_bytes
from monitor.tap.row_log.config import RowLogConfig
from monitor.tap.row_log.writer import RowLogWriter, claim_folder
from training.harvest.residuals import ResidualModel

CHUNK = 5
Change = Callable[[list[Step]], list[Step]]


class FakeLLM:
    """As much of `vllm.LLM` as `EngineModel` uses.

    Attributes:
        change: what becomes of the steps before they are written.
        prompts: of each call, their lengths.
        dies: the next call raises what vLLM raises when its process has died.
    """

    def __init__(self, model: str, hook_points: Sequence[str], folder: Path, dtype: str, record_mib: int) -> None:
        points = tuple(HookPoint.parse(name) for name in hook_points)
        self._model = ResidualModel(model, points, dtype)
        self._dtype = self._model.dtype
        config = RowLogConfig(folder, points, record_mib=record_mib)
        claim_folder(config)
        engine = {"name": "vllm", "version": "0.32.0", "runner": "v1", "device": "cpu", "dtype": dtype}
        engine |= {"execution": "eager", "quantization": "none"}
        header = RowLogHeader(tuple(hook_points), self._model.width, dtype, engine)
        self.writer = RowLogWriter(config, header)
        self.change: Change = lambda steps: steps
        self.prompts: list[list[int]] = []
        self.dies = False
        self.closed = False
        self._requests = 0
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self._shut_down))

    def _shut_down(self, timeout: float) -> None:
        assert timeout > 0
        self.closed = True

    def generate(self, prompts: Sequence[Any], sampling: Any, use_tqdm: bool) -> list[Any]:
        from vllm.v1.engine.exceptions import EngineDeadError

        assert (sampling.max_tokens, use_tqdm) == (1, False)
        if self.dies:
            raise EngineDeadError()
        sequences = [np.array(prompt["prompt_token_ids"]) for prompt in prompts]
        self.prompts.append([len(ids) for ids in sequences])
        names = [str(self._requests + index) for index in range(len(prompts))]
        self._requests += len(prompts)
        steps: list[Step] = []
        for index, (name, ids_t) in enumerate(zip(names, sequences, strict=True)):
            handle = int(name) + 1
            steps.append(Step(0, begins=[Begin(handle, f"{name}-0a1b2c3d", name, b"", 0, "")]))
            # One row more than the prompt has, for a token that was sampled.
            fed = np.append(ids_t, 1)[None] if index == 0 else ids_t[None]
            rows = {str(point): rows_btd[0] for point, rows_btd in self._model.residuals(fed).items()}
            for start in range(0, fed.shape[1], CHUNK):
                part = slice(start, start + CHUNK)
                held = [(point, as_bytes(rows_td[part].to(self._dtype).clone())) for point, rows_td in rows.items()]
                payload = HostPayload(HostRows(fed[0, part].astype(np.int32), held))
                segment = Segment(handle, start, fed[0, part].size)
                steps.append(Step(0, segments=[segment], payload=payload))
            steps.append(Step(0, ends=[End(handle, fed.shape[1], b"", 0)]))
        for step in self.change(steps):
            self.writer.offer(step)
        return [SimpleNamespace(request_id=name) for name in names]


def start_fake_engine(made: list[FakeLLM]) -> Callable[..., FakeLLM]:
    """In the place of `start_engine`; appends what it makes."""

    def start(
        model: str, hook_points: Sequence[str], folder: Path, *, dtype: str, record_mib: int, **arguments: Any
    ) -> FakeLLM:
        made.append(FakeLLM(model, hook_points, folder, dtype, record_mib))
        made[-1].arguments = arguments  # type: ignore[attr-defined]
        return made[-1]

    return start
