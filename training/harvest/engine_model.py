"""Activations as vLLM computes them: what a monitored engine really shows its tap."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest.engine_start import start_engine
from training.harvest.model_config import ModelConfig
from training.harvest.row_log import RowLogReader
from training.harvest.row_matching import RowMatcher

_RECORD_MIB: Final = 1024
_CLOSE_SECONDS: Final = 20.0
_HUGGING_FACE: Final = "take --activations huggingface for it"

Ids = npt.NDArray[np.int64]


class EngineModel:
    """A `vllm.LLM` on this host whose tap records every row; implements `ActivationModel`. Use as a context manager.

    The rows pass the tap's own operations, row table and runner adapters, so they are those that a sidecar would judge.
    Sequences are given to vLLM many at a time, and it batches and chunks them as it does when it serves.

    Args:
        model: Hugging Face folder or id.
        hook_points: `resid_post`, or `resid_pre` of any layer but the first.
        dtype: of the engine: auto (the model's own), float32, float16 or bfloat16.
        context: tokens of the longest sequence.
        engine_args: further arguments of `vllm.LLM`.

    Raises:
        FeaturewatchError: vLLM is not installed or does not start; a hook point that the tap does not read; sequences
            too long for the model.
    """

    def __init__(
        self,
        model: str,
        hook_points: Sequence[HookPoint],
        dtype: str = "auto",
        *,
        context: int,
        engine_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.hook_points = tuple(sorted(set(hook_points)))
        check_engine_points(self.hook_points)
        config = ModelConfig.read(model)
        config.require_hook_points(self.hook_points)
        require_room(config, context)
        self._context = context
        self._tapped = {point: str(_tapped(point)) for point in self.hook_points}
        parent = Path(tempfile.mkdtemp(prefix="featurewatch-rows-"))
        self._remove = weakref.finalize(self, shutil.rmtree, parent, ignore_errors=True)
        folder = parent / "rows"
        self._llm: Any = None
        try:
            self._llm = start_engine(
                model,
                sorted(set(self._tapped.values())),
                folder,
                dtype=dtype,
                # vLLM wants room for the token that it samples.
                max_model_len=context + 1,
                record_mib=_RECORD_MIB,
                engine_args=engine_args or {},
            )
            self._reader = RowLogReader(folder)
        except BaseException:
            self.close()
            raise
        header = self._reader.header
        self.dtype: torch.dtype = getattr(torch, header.dtype)
        self.device = torch.device(str(header.engine["device"]))
        self.engine = header.engine
        """What the tap tells of the engine: version, runner, device, dtype, quantization and so on."""
        self._width = header.width
        row_bytes = header.width * self.dtype.itemsize * len(header.hook_points)
        # Half of what may wait unread; the rest is for metadata and for steps that end requests.
        self._most_rows = max((_RECORD_MIB << 19) // row_bytes, context)

    def width_of(self, point: HookPoint) -> int:
        """That of the residual stream, for all."""
        return self._width

    def residuals(self, token_ids_bt: Ids, lengths_b: Ids | None = None) -> dict[HookPoint, Tensor]:
        """Rows per hook point, float32 [b, t, d] on the CPU, converted exactly from the engine's dtype.

        Args:
            token_ids_bt: padded on the right.
            lengths_b: [b], tokens of each sequence; what is behind does not reach the engine and comes back as zeros.
                None: everything is tokens.

        Raises:
            FeaturewatchError: the engine died, the recording ended, or rows are missing, doubled or of other tokens.
        """
        sequences, length = len(token_ids_bt), token_ids_bt.shape[1]
        if lengths_b is None:
            lengths_b = np.full(sequences, length)
        if length > self._context:
            raise FeaturewatchError(
                f"a batch of sequences of {length} tokens",
                f"the engine was started for at most {self._context}",
                "start it with a larger context",
            )
        rows = {point: torch.zeros(sequences, length, self._width) for point in self.hook_points}
        for part_b in self._parts(lengths_b):
            found = self._run([token_ids_bt[index, : lengths_b[index]] for index in part_b], length)
            for point, rows_btd in rows.items():
                rows_btd[part_b] = found[self._tapped[point]]
        return rows

    def close(self) -> None:
        """Ends the engine and its processes, and removes the rows' folder; may be called again."""
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown(timeout=_CLOSE_SECONDS)
        self._remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _parts(self, lengths_b: Ids) -> Iterator[npt.NDArray[np.int64]]:
        """Sequences with tokens, in groups whose rows fit into what may wait unread."""
        part: list[int] = []
        rows = 0
        for index in np.flatnonzero(lengths_b).tolist():
            if part and rows + int(lengths_b[index]) > self._most_rows:
                yield np.array(part)
                part, rows = [], 0
            part.append(index)
            rows += int(lengths_b[index])
        if part:
            yield np.array(part)

    def _run(self, sequences: Sequence[Ids], length: int) -> dict[str, Tensor]:
        from vllm import SamplingParams, TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._llm is None:
            raise FeaturewatchError("an engine that was closed", "it gives no more rows", "start another")
        prompts = [TokensPrompt(prompt_token_ids=ids_t.tolist()) for ids_t in sequences]
        one_token = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, detokenize=False)
        try:
            answers = self._llm.generate(prompts, one_token, use_tqdm=False)
        except EngineDeadError as error:
            self._reader.require_recording()
            raise FeaturewatchError(
                f"vLLM ({error})", "it died amid a batch of sequences", "see its own lines above, and harvest again"
            ) from error
        by_id = {answer.request_id: ids_t for answer, ids_t in zip(answers, sequences, strict=True)}
        matcher = RowMatcher(by_id, self._reader.header.hook_points, length, self._width)
        for recorded in self._reader.read():
            matcher.take(recorded)
        return matcher.complete()


def check_engine_points(hook_points: Sequence[HookPoint]) -> None:
    """Raises FeaturewatchError unless the tap reads all of them, or what stands for them."""
    for point in hook_points:
        _tapped(point)


def require_room(config: ModelConfig, context: int) -> None:
    """Raises FeaturewatchError unless the model has a position left behind `context` tokens, for the sampled one."""
    if config.positions is not None and context >= config.positions:
        raise FeaturewatchError(
            f"context {context} with activations vllm",
            f"model {config.model} takes {config.positions} positions, and vLLM needs one for a token that it samples",
            f"give --context {config.positions - 1} or less",
        )


def _tapped(point: HookPoint) -> HookPoint:
    """The output that is the same as `point`."""
    if point.site == "resid_post":
        return point
    if point.site == "resid_pre" and point.layer > 0:
        return HookPoint(point.layer - 1)
    rule = "the tap reads the output of layers, so resid_post.<layer>, and resid_pre.<layer> from layer 1 on"
    raise FeaturewatchError(f"hook point '{point}' with activations vllm", rule, _HUGGING_FACE)
