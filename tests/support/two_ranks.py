"""Two processes joined by gloo that run one function after the other: starting them takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

RANKS = 2
SECONDS = 60


class TwoRanks:
    """Calls a function of an importable module on both ranks and returns both results, the first rank's first."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pipes = [spawn.Pipe() for _ in range(RANKS)]
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [
            spawn.Process(target=_serve, args=(theirs, rank, port), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Arguments and results are pickled; an exception on a rank fails the test with that rank's traceback."""
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers = [self._answer(rank) for rank in range(RANKS)]
        return [_result(*answer) for answer in answers]

    def run_on_dying_first(self, function: Callable[..., Any]) -> Any:
        """The second rank's result of a function in which the first rank's process ends."""
        for pipe in self._pipes:
            pipe.send((function, ()))
        return _result(*self._answer(1))

    def _answer(self, rank: int) -> tuple[bool, Any]:
        assert self._pipes[rank].poll(SECONDS), f"rank {rank} gave no answer"
        good, result = self._pipes[rank].recv()
        return good, result

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _result(good: bool, result: Any) -> Any:
    assert good, f"on a rank:\n{result}"
    return result


def _serve(pipe: Connection, rank: int, port: int) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(NUMBA_NUM_THREADS="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, timeout=timedelta(seconds=SECONDS / 2))
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((True, function(*arguments)))
        except Exception:  # noqa: BLE001 – whatever it is, the test tells it
            pipe.send((False, traceback.format_exc()))
