"""What vLLM's scheduler told the engine to compute, and what was sampled: the truth that the tap's books are held
against. Runs in the engine's process."""

from __future__ import annotations

from typing import Any


class ScheduleTrace:
    """Listens to one scheduler of an in-process engine.

    Attributes:
        requests: by internal id, `{"prompt": [ids], "passes": [[first position, rows, drafts among them, rejected
            ones], ...], "sampled": [ids], "resumed": times}`.
        mixed_steps: steps that held whole or cut prompts beside decoding requests.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.clear()
        schedule, update = scheduler.schedule, scheduler.update_from_output

        def traced_schedule(*args: Any, **kwargs: Any) -> Any:
            decided = schedule(*args, **kwargs)
            self._decided(decided)
            return decided

        def traced_update(scheduler_output: Any, model_runner_output: Any) -> Any:
            self._computed(scheduler_output, model_runner_output)
            return update(scheduler_output, model_runner_output)

        scheduler.schedule, scheduler.update_from_output = traced_schedule, traced_update

    def clear(self) -> None:
        self.requests: dict[str, dict[str, Any]] = {}
        self.mixed_steps = 0

    def _decided(self, output: Any) -> None:
        first = {}
        for new in output.scheduled_new_reqs:
            if new.req_id in self.requests:
                # For the V2 model runner, a request that goes on after a preemption is a new one.
                self.requests[new.req_id]["resumed"] += 1
            else:
                self.requests[new.req_id] = {
                    "prompt": list(new.prompt_token_ids),
                    "passes": [],
                    "sampled": [],
                    "resumed": 0,
                }
            first[new.req_id] = new.num_computed_tokens
        cached = output.scheduled_cached_reqs
        first |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        for request_id in cached.resumed_req_ids:
            self.requests[request_id]["resumed"] += 1
        for request_id, rows in output.num_scheduled_tokens.items():
            self.requests[request_id]["passes"].append([first[request_id], rows, 0, 0])
        decoding = [len(self.requests[name]["prompt"]) <= first[name] for name in output.num_scheduled_tokens]
        self.mixed_steps += any(decoding) and not all(decoding)

    def _computed(self, scheduler_output: Any, output: Any) -> None:
        for request_id in scheduler_output.num_scheduled_tokens:
            tokens = output.sampled_token_ids[output.req_id_to_index[request_id]] if output.sampled_token_ids else []
            request = self.requests[request_id]
            request["sampled"] += [int(token) for token in tokens]
            drafts = scheduler_output.scheduled_spec_decode_tokens.get(request_id, ())
            if drafts:
                # The model's own token comes on top of the accepted drafts.
                request["passes"][-1][2:] = len(drafts), len(drafts) - (len(tokens) - 1)
