"""vLLM's V2 model runner: the real engine on a CPU, its Triton kernels run by Triton's interpreter, under random
schedules: without and with n-gram speculative decoding, and with asynchronous scheduling too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.interpreted_triton import ASYNCHRONOUS, ENVIRONMENT
from support.schedule_property import assert_happened, try_schedules
from support.stepped_engine import SteppedEngines

pytestmark = pytest.mark.engine

HOOK_POINTS = ["resid_post.0", "resid_post.3"]
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}


@pytest.fixture(scope="module")
def v2_engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteppedEngines]:
    folder = tmp_path_factory.mktemp("v2")
    environment = {"VLLM_CACHE_ROOT": str(folder / "cache"), **ENVIRONMENT}
    if request.param == "asynchronous":
        environment[ASYNCHRONOUS] = "1"
    with SteppedEngines(folder, environment) as opener:
        yield opener


@pytest.mark.parametrize(
    ("v2_engines", "drafting"),
    [("synchronous", None), ("synchronous", NGRAM), ("asynchronous", NGRAM)],
    indirect=["v2_engines"],
    ids=["plain", "ngram", "asynchronous-ngram"],
)
def test_any_schedule_is_reported_as_it_was_computed(
    drafting: dict[str, Any] | None, v2_engines: SteppedEngines, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seen = try_schedules(
        v2_engines,
        tmp_path,
        HOOK_POINTS,
        examples=1,
        runner="v2",
        asynchronous="asynchronous" in request.node.name,
        repeating=drafting is not None,
        tails=False,
        speculative_config=drafting,
    )
    assert_happened(seen, "rows", "positions from the prefix cache", "recomputed positions")
    if drafting:
        assert_happened(seen, "rejected drafts")
