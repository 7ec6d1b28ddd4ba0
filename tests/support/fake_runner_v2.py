"""A fake of vLLM's V2 model runner around vLLM's own `InputBatch`, `InputBuffers` and batch order.

What Triton kernels do there is done here in Python: `prepare_pos_seq_lens` (positions from the computed tokens on the
device), `combine_sampled_and_draft_tokens` (the last sampled token, then the drafts), `get_num_sampled_and_rejected`
and `post_update` (computed tokens grow by the rows less the rejected ones). "On the device" is what the scheduler's
numbers on the host may run ahead of.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from support.fake_batches import NOBODY, FakeModel, World, runner_output


class FakeRunnerV2:
    """Methods and call order of `gpu/model_runner.py`."""

    def __init__(self, world: World, *, drafts: int, max_rows: int, max_requests: int) -> None:
        from vllm.v1.worker.gpu.input_batch import InputBuffers

        self.world, self.num_speculative_steps = world, drafts
        self.fake_model = FakeModel(max_rows + 8)
        self.max_num_tokens, self.dtype, self.device = max_rows, torch.float32, torch.device("cpu")
        self.max_requests = max_requests
        # Room for padding rows and requests behind the real ones.
        self.input_buffers = InputBuffers(max_requests + 4, max_rows + 8, self.device)
        self.req_states: dict[str, Any] = {}
        self.drafts: dict[str, list[int]] = {}
        self._executed: Any = None
        self._names: list[str] = []

    def load_model(self) -> None:
        """Nothing to load."""

    def shutdown(self) -> None:
        """Nothing to let go of."""

    def execute_model(self, output: Any, intermediate_tensors: Any = None, dummy_run: bool = False) -> Any:
        if dummy_run:
            self.fake_model.forward([(NOBODY, NOBODY, NOBODY)], 4)
            return None
        for name in output.finished_req_ids | output.preempted_req_ids:
            self.req_states.pop(name, None)
        for new in output.scheduled_new_reqs:
            self.world.number(new.req_id)
            self.req_states[new.req_id] = SimpleNamespace(
                tokens=list(new.prefill_token_ids),
                prefill_tokens=len(new.prefill_token_ids),
                computed=new.num_computed_tokens,
                computed_at_most=new.num_computed_tokens,
                drafts=[0] * self.num_speculative_steps,
            )
        cached = output.scheduled_cached_reqs
        for name, computed in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
            self.req_states[name].computed_at_most = computed
        if not output.num_scheduled_tokens:
            return runner_output([], [])
        batch = self.prepare_inputs(output)
        self.world.step += 1
        self._forward(batch)
        self._executed = batch
        return None

    def prepare_inputs(self, output: Any) -> Any:
        from vllm.v1.worker.gpu.input_batch import InputBatch
        from vllm.v1.worker.gpu.model_runner import sort_batch_req_ids

        random, buffers = self.world.random, self.input_buffers
        names = sort_batch_req_ids(
            output.num_scheduled_tokens, output.scheduled_spec_decode_tokens, 1 + self.num_speculative_steps
        )
        requests, self._names = len(names), names
        counts = np.array([output.num_scheduled_tokens[name] for name in names], np.int32)
        tokens, padded = int(counts.sum()), int(counts.sum() + random.integers(0, 8))
        padded_requests = requests + int(random.integers(0, 4))
        bounds = np.full(padded_requests + 1, tokens, np.int32)
        bounds[: requests + 1] = np.cumsum([0, *counts])
        drafts = output.scheduled_spec_decode_tokens
        drafted = np.array([len(drafts.get(name, ())) for name in names], np.int32) if drafts else None
        # What lay there before.
        buffers.positions[:padded], buffers.input_ids[:padded] = -5, -5
        buffers.query_start_loc[: padded_requests + 1] = torch.from_numpy(bounds)
        for index, name in enumerate(names):
            state, start, count = self.req_states[name], bounds[index], int(counts[index])
            rows = slice(start, start + count)
            known = [*state.tokens, *state.drafts][state.computed :][:count]
            buffers.positions[rows] = torch.arange(state.computed, state.computed + count)
            buffers.input_ids[rows] = torch.tensor(known, dtype=torch.int32)
        states = [self.req_states[name] for name in names]
        none = torch.zeros(0, dtype=torch.int64)
        return InputBatch(
            req_ids=names,
            num_reqs=requests,
            num_reqs_after_padding=padded_requests,
            idx_mapping=torch.arange(requests),
            idx_mapping_np=np.arange(requests),
            expanded_idx_mapping=none,
            expanded_local_pos=none,
            num_scheduled_tokens=counts,
            num_tokens=tokens,
            num_tokens_after_padding=padded,
            num_draft_tokens=int(drafted.sum()) if drafted is not None else 0,
            num_draft_tokens_per_req=drafted,
            query_start_loc=buffers.query_start_loc[: padded_requests + 1],
            query_start_loc_np=bounds,
            seq_lens=none,
            seq_lens_cpu_upper_bound=none,
            dcp_local_seq_lens=None,
            num_computed_tokens_np=np.array([state.computed_at_most for state in states], np.int32),
            prefill_len_np=np.array([state.prefill_tokens for state in states], np.int32),
            num_computed_prefill_tokens_np=np.zeros(requests, np.int32),
            is_prefilling_np=np.zeros(requests, np.bool_),
            has_prefill=False,
            decode_graph_eligible=False,
            input_ids=buffers.input_ids[:padded],
            positions=buffers.positions[:padded],
            is_padding=buffers.is_padding[:padded],
            logits_indices=none,
            cu_num_logits=none,
            cu_num_logits_np=np.zeros(0, np.int32),
            has_structured_output_reqs=False,
            prompt_lens=None,
        )

    def _forward(self, batch: Any) -> None:
        bounds = batch.query_start_loc_np
        rows = [
            (float(self.world.numbers[name]), float(batch.positions[row]), float(batch.input_ids[row]))
            for index, name in enumerate(batch.req_ids)
            for row in range(bounds[index], bounds[index + 1])
        ]
        self.fake_model.forward(rows, batch.num_tokens_after_padding)

    def sample_tokens(self, grammar: Any) -> Any:
        batch, self._executed = self._executed, None
        bounds, sampled, rejected = batch.query_start_loc_np, [], []
        for index, name in enumerate(batch.req_ids):
            state, count = self.req_states[name], int(batch.num_scheduled_tokens[index])
            fed = batch.input_ids[bounds[index] : bounds[index + 1]].tolist()
            drafted = int(batch.num_draft_tokens_per_req[index]) if batch.num_draft_tokens_per_req is not None else 0
            part = state.computed + count < state.prefill_tokens
            tokens = [] if part else self.world.sample(fed[count - drafted :])
            rejected.append(0 if part else 1 + drafted - len(tokens))
            self.world.record(name, state.computed, fed, drafted, rejected[-1])
            sampled.append(tokens)
        self.postprocess_sampled(
            batch.idx_mapping, sampled, None, torch.tensor(rejected, dtype=torch.int32), batch.query_start_loc
        )
        self.drafts = {}
        for name, tokens in zip(batch.req_ids, sampled, strict=True):
            state = self.req_states[name]
            state.tokens.extend(tokens)
            state.drafts = [self.world.token() for _ in range(self.num_speculative_steps)]
            if tokens:
                self.drafts[name] = list(state.drafts)
        return runner_output(batch.req_ids, sampled)

    def postprocess_sampled(
        self, idx_mapping: Any, sampled: Any, num_sampled: Any, num_rejected: torch.Tensor, query_start_loc: Any = None
    ) -> None:
        bounds = query_start_loc.tolist()
        for index, name in enumerate(self._names):
            self.req_states[name].computed += bounds[index + 1] - bounds[index] - int(num_rejected[index])
