"""A fake of vLLM's V1 model runner with the batch objects that the tap reads: they are only true inside
`execute_model`, behind `_update_states`, and vLLM reorders the batch as it likes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from support.fake_batches import FakeModel, World, runner_output


class FakeRunnerV1:
    """`requests` and `input_batch` as in `gpu_model_runner.py`; the rest of a state is what would be on the device."""

    def __init__(self, world: World, *, asynchronous: bool, max_rows: int, max_requests: int) -> None:
        self.world, self._asynchronous = world, asynchronous
        self.fake_model = FakeModel(max_rows + 8)
        self.max_num_tokens, self.dtype, self.device = max_rows, torch.float32, torch.device("cpu")
        self.input_batch = SimpleNamespace(
            req_ids=[], num_reqs=0, num_computed_tokens_cpu=np.zeros(max_requests, np.int32)
        )
        self.requests: dict[str, Any] = {}
        self.query_start_loc = SimpleNamespace(np=np.zeros(max_requests + 1, np.int32))
        self.positions = torch.zeros(max_rows, dtype=torch.int64)
        self.input_ids = SimpleNamespace(gpu=torch.zeros(max_rows, dtype=torch.int32))
        self.drafts: dict[str, list[int]] = {}
        self._executed: Any = None

    def load_model(self) -> None:
        """Nothing to load."""

    def shutdown(self) -> None:
        """Nothing to let go of."""

    def execute_model(self, output: Any) -> Any:
        self._update_states(output)
        if not output.num_scheduled_tokens:
            return runner_output([], [])
        self._prepare_inputs(output)
        self.world.step += 1
        self._model_forward()
        self._executed = output
        return None

    def _update_states(self, output: Any) -> None:
        for name in output.finished_req_ids:
            self.requests.pop(name, None)
        for new in output.scheduled_new_reqs:
            self.world.number(new.req_id)
            self.requests[new.req_id] = SimpleNamespace(
                num_computed_tokens=new.num_computed_tokens,
                output_token_ids=[],
                tokens=list(new.prompt_token_ids),
                prompt_tokens=len(new.prompt_token_ids),
            )
        cached = output.scheduled_cached_reqs
        for name, computed, outputs in zip(
            cached.req_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True
        ):
            state = self.requests[name]
            state.num_computed_tokens = computed
            # Outputs that were thrown away.
            del state.output_token_ids[outputs:]
            if not self._asynchronous:
                del state.tokens[state.prompt_tokens + outputs :]
        names = list(output.num_scheduled_tokens)
        self.world.random.shuffle(names)
        self.input_batch.req_ids, self.input_batch.num_reqs = names, len(names)

    def _prepare_inputs(self, output: Any) -> None:
        rows = 0
        self.query_start_loc.np[:] = 0
        for index, name in enumerate(self.input_batch.req_ids):
            state, count = self.requests[name], output.num_scheduled_tokens[name]
            first = state.num_computed_tokens
            self.input_batch.num_computed_tokens_cpu[index] = first
            known = [*state.tokens, *output.scheduled_spec_decode_tokens.get(name, ())]
            self.input_ids.gpu[rows : rows + count] = torch.tensor(known[first : first + count], dtype=torch.int32)
            self.positions[rows : rows + count] = torch.arange(first, first + count)
            rows += count
            self.query_start_loc.np[index + 1 :] = rows

    def _model_forward(self) -> str:
        bounds, names = self.query_start_loc.np, self.input_batch.req_ids
        rows = [
            (float(self.world.numbers[name]), float(self.positions[row]), float(self.input_ids.gpu[row]))
            for index, name in enumerate(names)
            for row in range(bounds[index], bounds[index + 1])
        ]
        self.fake_model.forward(rows, len(rows) + int(self.world.random.integers(0, 8)))
        return "hidden states"

    def sample_tokens(self, grammar: Any) -> Any:
        output, self._executed = self._executed, None
        names, sampled = list(self.input_batch.req_ids), []
        self.drafts = {}
        for index, name in enumerate(names):
            state, count = self.requests[name], output.num_scheduled_tokens[name]
            first, start = state.num_computed_tokens, self.query_start_loc.np[index]
            fed = self.input_ids.gpu[start : start + count].tolist()
            drafts = output.scheduled_spec_decode_tokens.get(name, [])
            # A part of a prompt: what is sampled behind it is thrown away.
            tokens = self.world.sample(drafts) if first + count >= len(state.tokens) else []
            rejected = len(drafts) - (len(tokens) - 1) if drafts else 0
            self.world.record(name, first, fed, len(drafts), rejected)
            state.tokens.extend(tokens)
            state.output_token_ids.extend([-1] * len(tokens) if self._asynchronous else tokens)
            sampled.append(tokens)
            if tokens:
                self.drafts[name] = [self.world.token() for _ in range(3)]
        return runner_output(names, sampled)
