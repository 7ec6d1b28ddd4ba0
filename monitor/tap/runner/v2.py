"""vLLM's V2 model runner (`vllm/v1/worker/gpu/model_runner.py`; the CPU runner inherits it), as of 0.32.

`execute_model` updates the request states from the scheduler's decision, `prepare_inputs` returns the step's batch,
the model runs; `sample_tokens` follows as a call of its own and ends in `postprocess_sampled`. Dummy runs come through
`execute_model` too, with `dummy_run` set. The batch is padded for CUDA graphs; rows and requests behind the real ones
are never read.

With speculative decoding the numbers on the host are upper bounds: which position a row is, and how many rows do not
count, is only on the device. Both are copied from there and read when they have arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from monitor.tap.drafts import DeviceDrafts
from monitor.tap.host_copy import HostCopier, make_copier
from monitor.tap.record import RowTable
from monitor.tap.runner.base import RunnerBase
from monitor.tap.scheduler.labels import new_request
from monitor.tap.tap import Tap


class RunnerV2(RunnerBase):
    """Adapter of one `GPUModelRunner`. See `monitor.tap.runner.adapter.RunnerAdapter`."""

    name = "v2"
    drafter_attribute = "speculator"
    needed = (
        *("load_model", "execute_model", "prepare_inputs", "postprocess_sampled", "shutdown"),
        *("req_states", "input_buffers", "max_num_tokens", "num_speculative_steps"),
    )

    def __init__(self, runner: Any, copier: HostCopier | None = None) -> None:
        super().__init__(runner)
        self._speculative = int(runner.num_speculative_steps) > 0
        self._copier = copier or make_copier(self.device)
        # Of the step that is being executed.
        self._batch: Any = None
        # Of the last forward pass, until it was sampled from.
        self._drafts: DeviceDrafts | None = None
        # Length of the prompt of each live request.
        self._prompts: dict[str, int] = {}

    def attach(self, tap: Tap, on_shutdown: Callable[[], None]) -> None:
        runner = self._runner
        execute_model, prepare_inputs = runner.execute_model, runner.prepare_inputs
        postprocess_sampled = runner.postprocess_sampled
        self._tap = tap

        def wrapped_execute_model(
            scheduler_output: Any, intermediate_tensors: Any = None, dummy_run: bool = False, *args: Any, **kwargs: Any
        ) -> Any:
            if dummy_run:
                return execute_model(scheduler_output, intermediate_tensors, dummy_run, *args, **kwargs)
            tap.guard(self._before_step, scheduler_output)
            self._batch = None
            output = execute_model(scheduler_output, intermediate_tensors, dummy_run, *args, **kwargs)
            batch, self._batch = self._batch, None
            if batch is not None:
                tap.guard(self._after_forward, batch, scheduler_output)
            return output

        def wrapped_prepare_inputs(*args: Any, **kwargs: Any) -> Any:
            self._batch = prepare_inputs(*args, **kwargs)
            return self._batch

        def wrapped_postprocess_sampled(*args: Any, **kwargs: Any) -> Any:
            result = postprocess_sampled(*args, **kwargs)
            if self._drafts is not None:
                tap.guard(self._judge_drafts, args, kwargs)
            return result

        self._methods.wrap("execute_model", wrapped_execute_model)
        self._methods.wrap("prepare_inputs", wrapped_prepare_inputs)
        self._methods.wrap("postprocess_sampled", wrapped_postprocess_sampled)
        self._wrap_shutdown(on_shutdown)

    def outputs(self, request_id: str) -> Sequence[int]:
        """None: what was sampled is on the device."""
        return ()

    def _before_step(self, scheduler_output: Any) -> None:
        tap = self._tap
        if tap is None:
            return
        if self._drafts is not None:
            # Nothing was sampled for the step before; what is behind it must not wait for ever.
            drafts, self._drafts = self._drafts, None
            drafts.give_up()
        ended = list(scheduler_output.finished_req_ids)
        for request_id in ended:
            self._prompts.pop(request_id, None)
        begun = []
        for new in scheduler_output.scheduled_new_reqs:
            length = new.prompt_len
            # A preempted request comes back as a new one with the same prompt, and goes on. One with a longer prompt
            # has got more input (streaming input); what was sampled is part of the prompt now, and so it is another.
            if self._prompts.get(new.req_id) == length:
                continue
            if new.req_id in self._prompts:
                ended.append(new.req_id)
            self._prompts[new.req_id] = length
            begun.append(new_request(new))
        try:
            tap.between_steps([(request_id, ()) for request_id in ended], begun)
        finally:
            if not scheduler_output.total_num_scheduled_tokens:
                # The engine may now be idle for long, and nothing is scheduled that would wait.
                tap.settle(wait=True)

    def _after_forward(self, batch: Any, scheduler_output: Any) -> None:
        tap = self._tap
        if tap is None:
            return
        try:
            table = self._table(batch)
        except Exception:
            tap.blind(_computed(scheduler_output))
            raise
        tap.after_forward(table)

    def _table(self, batch: Any) -> RowTable:
        requests = int(batch.num_reqs)
        if self._speculative:
            drafts = batch.num_draft_tokens_per_req
            # The model's own input; what lies on the host may count drafts that were rejected since.
            firsts = batch.positions.index_select(0, batch.query_start_loc[:requests].long())
            self._drafts = DeviceDrafts(
                firsts, np.zeros(requests, np.int32) if drafts is None else drafts[:requests].copy(), self._copier
            )
        return RowTable(
            request_ids=tuple(batch.req_ids[:requests]),
            bounds=batch.query_start_loc_np[: requests + 1].copy(),
            first_positions=batch.num_computed_tokens_np[:requests].copy(),
            token_ids=batch.input_ids,
            drafts=self._drafts,
        )

    def _judge_drafts(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """With the arguments of `postprocess_sampled`, which moves each request on by its rows less the rejected."""
        tap, drafts, self._drafts = self._tap, self._drafts, None
        if tap is None or drafts is None:
            return
        try:
            drafts.judge((kwargs["num_rejected"] if "num_rejected" in kwargs else args[3]).clone())
        except Exception:
            drafts.give_up()
            raise
        finally:
            tap.settle()


def _computed(scheduler_output: Any) -> dict[str, int]:
    """How many positions of each request are computed behind this step, at most."""
    cached = scheduler_output.scheduled_cached_reqs
    before = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    before.update((new.req_id, new.num_computed_tokens) for new in scheduler_output.scheduled_new_reqs)
    return {name: before[name] + count for name, count in scheduler_output.num_scheduled_tokens.items()}
