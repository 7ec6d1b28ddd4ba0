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
        # Decided on, and not computed yet, as far as the scheduler knows.
        self._in_flight: list[tuple[Any, dict[str, list[int]]]] = []

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
        shares = {name: [first[name], rows, 0, 0] for name, rows in output.num_scheduled_tokens.items()}
        for request_id, share in shares.items():
            self.requests[request_id]["passes"].append(share)
        self._in_flight.append((output, shares))
        decoding = [len(self.requests[name]["prompt"]) <= first[name] for name in output.num_scheduled_tokens]
        self.mixed_steps += any(decoding) and not all(decoding)

    def _computed(self, scheduler_output: Any, output: Any) -> None:
        place = next(at for at, (decided, _) in enumerate(self._in_flight) if decided is scheduler_output)
        _, shares = self._in_flight.pop(place)
        for request_id in scheduler_output.num_scheduled_tokens:
            tokens = output.sampled_token_ids[output.req_id_to_index[request_id]] if output.sampled_token_ids else []
            request = self.requests[request_id]
            request["sampled"] += [int(token) for token in tokens]
            drafts = scheduler_output.scheduled_spec_decode_tokens.get(request_id, ())
            if drafts:
                # The model's own token comes on top of the accepted drafts.
                share = shares[request_id]
                share[2:] = len(drafts), len(drafts) - (len(tokens) - 1)
                self._correct(request_id, share)

    def _correct(self, request_id: str, judged: list[int]) -> None:
        """Under asynchronous scheduling what follows was decided as if all drafts had been accepted."""
        first, rows, _, rejected = judged
        end = first + rows
        for _, shares in self._in_flight:
            share = shares.get(request_id)
            if share is not None and share[0] == end:
                end += share[1]
                share[0] -= rejected
