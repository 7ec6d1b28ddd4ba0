"""The plugin beside vLLM's own scheduler: what it wraps, and the labels of requests."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from unittest.mock import MagicMock

import pytest
from support.lone_scheduler import RealScheduler
from watched_scheduler import CACHED, PROMPT, Seeing, Watched, features, wrapped_methods

from monitor.tap import plugin
from monitor.tap.scheduler.labels import new_request


@pytest.fixture
def registered() -> Iterator[None]:
    """The plugin in this process, taken out afterwards."""
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    init, init_device = Scheduler.__init__, WorkerWrapperBase.init_device
    plugin.register()
    yield
    Scheduler.__init__, WorkerWrapperBase.init_device = init, init_device


@pytest.mark.usefixtures("registered")
def test_without_configuration_the_scheduler_keeps_its_own_methods() -> None:
    engine = RealScheduler()
    engine.add("a", PROMPT, cache_salt="pepper")
    (new,) = engine.step().scheduled_new_reqs
    assert not hasattr(new, "featurewatch")
    assert wrapped_methods(engine) == []


@pytest.mark.usefixtures("registered")
def test_a_configured_scheduler_follows_the_sidecar_until_it_shuts_down() -> None:
    engine = RealScheduler({"sidecar": "unix:/nowhere/s.sock", "hook_points": ["resid_post.1"]})
    assert wrapped_methods(engine) == [
        "schedule",
        "shutdown",
        "get_computed_blocks",
        "get_computed_blocks_for_connector",
    ]
    engine.add("a", PROMPT)
    assert engine.run() == {"a": 0}
    engine.add("b", PROMPT)
    assert engine.run() == {"b": CACHED}, "nobody there to ask"
    engine.scheduler.shutdown()


@pytest.mark.usefixtures("registered")
def test_without_a_prefix_cache_requests_are_labelled_and_nothing_is_looked_up() -> None:
    engine = RealScheduler({"sidecar": "unix:/nowhere/s.sock", "hook_points": ["resid_post.1"]}, prefix_caching=False)
    engine.add("a", PROMPT, cache_salt="pepper")
    (new,) = engine.step().scheduled_new_reqs
    assert new_request(new).cache_salt_sha256
    assert wrapped_methods(engine) == ["schedule"]


def test_workers_get_the_hash_of_the_salt_and_never_the_salt() -> None:
    engine = Watched()
    engine.add("salted", PROMPT, cache_salt="pepper-and-salt")
    engine.add("plain", PROMPT)
    salted, plain = pickle.loads(pickle.dumps(engine.step())).scheduled_new_reqs
    assert new_request(salted).cache_salt_sha256 == hashlib.sha256(b"pepper-and-salt").digest()
    assert new_request(plain).cache_salt_sha256 == b""
    assert b"pepper-and-salt" not in pickle.dumps(salted)


def test_workers_get_the_names_of_images_also_where_their_data_was_left_out() -> None:
    engine = Seeing()
    engine.known.active = False
    expected = tuple((at, hashlib.sha256(name).digest()) for at, name in ((4, b"cat"), (40, b"dog")))
    for name in ("first", "second"):
        engine.add(name, PROMPT, mm_features=features((4, "cat"), (40, "dog")))
        (new,) = engine.step().scheduled_new_reqs
        assert new_request(new).content_keys == expected
        del new.featurewatch
        assert new_request(new).content_keys == expected, "a scheduler without the plugin"
        engine.run()
    assert [feature.data for feature in new.mm_features] == [None, None], "all of it came from the cache"


def test_labels_that_fail_are_counted_and_the_step_is_scheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Watched()
    engine.add("a", PROMPT)
    monkeypatch.setattr("monitor.tap.scheduler.side.labels_of", MagicMock(side_effect=RuntimeError("broken")))
    (new,) = engine.step().scheduled_new_reqs
    assert engine.labels.errors == 1
    assert new_request(new).content_keys == ()
