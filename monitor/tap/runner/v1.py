"""vLLM's V1 model runner (`vllm/v1/worker/gpu_model_runner.py`; the CPU runner inherits it), proven on 0.32.

`execute_model` gets the scheduler's decision, `_update_states` inside it makes the batch true, `_prepare_inputs` fills
token ids and query_start_loc, and `_model_forward` runs the model: the row table is taken right after that. Before
`execute_model` the batch is that of the step before; dummy and profiling runs do not pass through `_model_forward`.
`num_computed_tokens_cpu` is exact without asynchronous scheduling, and with it as long as there are no drafts. Which
drafts were accepted is in the output of `sample_tokens`, as long as scheduling is synchronous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monitor.tap.drafts import SampledDrafts
from monitor.tap.record import RowTable
from monitor.tap.runner.base import RunnerBase
from monitor.tap.scheduler.labels import new_request
from monitor.tap.tap import Tap


class RunnerV1(RunnerBase):
    """Adapter of one `GPUModelRunner`. See `monitor.tap.runner.adapter.RunnerAdapter`.

    Args:
        knows_outputs: False on a pipeline rank that does not sample; the last token of a request never gets there.
    """

    name = "v1"
    drafter_attribute = "drafter"
    needed = (
        *("load_model", "execute_model", "_model_forward", "sample_tokens", "shutdown"),
        *("input_batch", "requests", "input_ids", "positions", "query_start_loc"),
    )

    def __init__(self, runner: Any, *, knows_outputs: bool = True) -> None:
        super().__init__(runner)
        self._knows_outputs = knows_outputs
        self._scheduled: Any = None
        # Of the last forward pass, until `sample_tokens` has judged them.
        self._drafts: SampledDrafts | None = None

    def attach(self, tap: Tap, on_shutdown: Callable[[], None]) -> None:
        runner = self._runner
        execute_model, model_forward = runner.execute_model, runner._model_forward
        sample_tokens = runner.sample_tokens
        self._tap = tap

        def wrapped_execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            tap.guard(self._before_step, scheduler_output)
            self._scheduled = scheduler_output
            try:
                return execute_model(scheduler_output, *args, **kwargs)
            finally:
                self._scheduled = None

        def wrapped_model_forward(*args: Any, **kwargs: Any) -> Any:
            output = model_forward(*args, **kwargs)
            scheduled, self._scheduled = self._scheduled, None
            if scheduled is not None:
                tap.guard(self._after_forward, scheduled)
            return output

        def wrapped_sample_tokens(*args: Any, **kwargs: Any) -> Any:
            output = sample_tokens(*args, **kwargs)
            if self._drafts is not None:
                tap.guard(self._judge_drafts, output)
            return output

        self._methods.wrap("execute_model", wrapped_execute_model)
        self._methods.wrap("_model_forward", wrapped_model_forward)
        self._methods.wrap("sample_tokens", wrapped_sample_tokens)
        self._wrap_shutdown(on_shutdown)

    def outputs(self, request_id: str) -> Sequence[int]:
        state = self._runner.requests.get(request_id) if self._knows_outputs else None
        return state.output_token_ids if state is not None else ()

    def _before_step(self, scheduler_output: Any) -> None:
        """Runs before `_update_states` removes what has finished."""
        tap = self._tap
        if tap is None:
            return
        if self._drafts is not None:
            # Nothing was sampled for the step before; what is behind it must not wait for ever.
            drafts, self._drafts = self._drafts, None
            drafts.judge({})
        # A live request that is scheduled as new has got more input (streaming input): vLLM makes what was sampled part
        # of a longer prompt, so the old prompt's length and outputs hold no more. It goes on as another request.
        again = (new.req_id for new in scheduler_output.scheduled_new_reqs)
        ended = [(request_id, self.outputs(request_id)) for request_id in {*scheduler_output.finished_req_ids, *again}]
        begun = [new_request(new) for new in scheduler_output.scheduled_new_reqs]
        tap.between_steps(ended, begun)

    def _after_forward(self, scheduler_output: Any) -> None:
        tap = self._tap
        if tap is None:
            return
        try:
            table = self._table(scheduler_output)
        except Exception:
            tap.blind(self._computed(scheduler_output))
            raise
        tap.after_forward(table)

    def _table(self, scheduler_output: Any) -> RowTable:
        runner = self._runner
        batch = runner.input_batch
        requests = batch.num_reqs
        request_ids = batch.req_ids[:requests]
        bounds = runner.query_start_loc.np[: requests + 1].copy()
        positions = runner.positions
        # The model's own input where it can be read without waiting for the device.
        on_host = positions.device.type == "cpu"
        first_positions = positions.numpy()[bounds[:-1]] if on_host else batch.num_computed_tokens_cpu[:requests].copy()
        if scheduler_output.scheduled_spec_decode_tokens:
            counts = {name: len(drafts) for name, drafts in scheduler_output.scheduled_spec_decode_tokens.items()}
            self._drafts = SampledDrafts(request_ids, first_positions, counts)
        return RowTable(request_ids, bounds, first_positions, runner.input_ids.gpu, self._drafts)

    def _judge_drafts(self, output: Any) -> None:
        """`output` is what the scheduler gets: of each request the tokens that hold."""
        tap, drafts, self._drafts = self._tap, self._drafts, None
        if tap is None or drafts is None:
            return
        sampled: dict[str, int] = {}
        try:
            tokens = output.sampled_token_ids
            sampled = {request_id: len(tokens[index]) for request_id, index in output.req_id_to_index.items()}
        finally:
            drafts.judge(sampled)
            tap.settle()

    def _computed(self, scheduler_output: Any) -> dict[str, int]:
        """How many positions of each request are computed behind this step, drafts included."""
        return {
            request_id: int(self._runner.requests[request_id].num_computed_tokens) + count
            for request_id, count in scheduler_output.num_scheduled_tokens.items()
        }
