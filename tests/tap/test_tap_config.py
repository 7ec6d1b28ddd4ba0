"""Settings are read from one place, and a bad one says what is wrong, why, and what to do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monitor.errors import FeaturewatchError
from monitor.rpc import ClientTls, Target
from monitor.sae import HookPoint
from monitor.tap.config import read_config
from monitor.tap.engine import check_engine, salt_compile_cache
from monitor.tap.proven import PROVEN

GOOD: dict[str, Any] = {"sidecar": "127.0.0.1:7710", "hook_points": ["resid_post.14", "resid_post.10"]}


def test_without_any_setting_there_is_no_tap() -> None:
    assert read_config({}, {}) is None
    assert read_config({"something_else": 1}, {"PATH": "/bin"}) is None
    assert read_config(None, {}) is None


def test_additional_config_and_environment_say_the_same() -> None:
    by_key = read_config({"featurewatch": GOOD}, {})
    by_environment = read_config(
        {}, {"FEATUREWATCH_SIDECAR": "127.0.0.1:7710", "FEATUREWATCH_HOOK_POINTS": "resid_post.14, resid_post.10,"}
    )
    assert by_key == by_environment
    assert by_key is not None
    assert by_key.sidecar == Target.parse("127.0.0.1:7710")
    assert by_key.hook_points == (HookPoint(10), HookPoint(14))


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"sidecar": "unix:/run/fw.sock"}, ["without hook_points", "needs sidecar and hook_points"]),
        ({"hook_points": ["resid_post.1"]}, ["without sidecar"]),
        (GOOD | {"hookpoints": []}, ["'hookpoints'", "Did you mean 'hook_points'"]),
        (GOOD | {"sidecar": "http://localhost:1"}, ["'http://localhost:1'", "unix:<path>, host:port or tls:host:port"]),
        (GOOD | {"sidecar": 7710}, ["sidecar 7710", "must be a string"]),
        (GOOD | {"hook_points": ["resid_pre.3"]}, ["'resid_pre.3'", "resid_post.<layer>"]),
        (GOOD | {"hook_points": "resid_post.3"}, ["must be a list of strings"]),
        (GOOD | {"queue_frames": 0}, ["queue_frames 0", "from 8 to"]),
        (GOOD | {"queue_mib": True}, ["queue_mib True"]),
        (GOOD | {"recorder_mib": 0.5}, ["recorder_mib 0.5", "from 0 to 65536. The default is 64"]),
        (GOOD | {"recorder_mib": -1}, ["recorder_mib -1"]),
        (GOOD | {"allow_unproven_engine": "yes"}, ["allow_unproven_engine 'yes'", "true or false"]),
        ("unix:/run/fw.sock", ["of type str", "JSON object"]),
    ],
)
def test_a_bad_setting_is_named(settings: Any, parts: list[str]) -> None:
    with pytest.raises(FeaturewatchError) as caught:
        read_config({"featurewatch": settings}, {})
    for part in parts:
        assert part in str(caught.value)


def test_half_an_environment_is_an_error_and_not_silence() -> None:
    with pytest.raises(FeaturewatchError, match=r"FEATUREWATCH_HOOK_POINTS\) without hook_points"):
        read_config({}, {"FEATUREWATCH_SIDECAR": "unix:/run/fw.sock"})


def _engine(**changes: Any) -> SimpleNamespace:
    parallel = {
        "pipeline_parallel_size": 1,
        "use_sequence_parallel_moe": False,
        "use_ubatching": False,
        "prefill_context_parallel_size": 1,
    }
    return SimpleNamespace(
        parallel_config=SimpleNamespace(**{name: changes.get(name, value) for name, value in parallel.items()}),
        compilation_config=SimpleNamespace(pass_config=SimpleNamespace(enable_sp=changes.get("enable_sp", False))),
        speculative_config=changes.get("speculative_config"),
        scheduler_config=SimpleNamespace(async_scheduling=changes.get("async_scheduling", False)),
        use_v2_model_runner=changes.get("use_v2_model_runner", False),
        device_config=SimpleNamespace(device_type=changes.get("device_type", "cpu")),
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=changes.get("kv_sharing_fast_prefill", False)),
        model_config=SimpleNamespace(
            model="some/model",
            is_encoder_decoder=changes.get("is_encoder_decoder", False),
            is_diffusion=changes.get("is_diffusion", False),
            enable_prompt_embeds=changes.get("enable_prompt_embeds", False),
        ),
        additional_config={},
    )


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"speculative_config": SimpleNamespace(method="eagle"), "async_scheduling": True},
            ["speculative decoding (eagle) with asynchronous scheduling", "--no-async-scheduling"],
        ),
        (
            {"speculative_config": SimpleNamespace(method="ngram"), "pipeline_parallel_size": 2},
            ["speculative decoding (ngram) with pipeline parallelism"],
        ),
        ({"speculative_config": SimpleNamespace(method="ngram_gpu")}, ["(ngram_gpu) on the V1", "the method ngram"]),
        (
            {
                "speculative_config": SimpleNamespace(method="dspark", enable_adaptive_verification=True),
                "use_v2_model_runner": True,
            },
            ["adaptive verification"],
        ),
        ({"speculative_config": SimpleNamespace(method="extract_hidden_states")}, ["(extract_hidden_states)"]),
        ({"enable_sp": True}, ["sequence parallelism"]),
        ({"use_sequence_parallel_moe": True}, ["sequence parallelism"]),
        ({"use_ubatching": True}, ["dual batch overlap"]),
        ({"prefill_context_parallel_size": 2}, ["prefill_context_parallel_size 2"]),
        ({"enable_prompt_embeds": True}, ["enable_prompt_embeds"]),
        ({"kv_sharing_fast_prefill": True}, ["kv_sharing_fast_prefill", "upper layers"]),
        ({"is_encoder_decoder": True}, ["encoder-decoder model some/model"]),
        ({"is_diffusion": True}, ["diffusion model some/model"]),
    ],
)
def test_engine_set_ups_that_would_be_observed_wrongly_are_refused(changes: dict[str, Any], parts: list[str]) -> None:
    config = read_config({"featurewatch": GOOD}, {})
    assert config is not None
    check_engine(_engine(), "0.32.0+cpu", config)
    with pytest.raises(FeaturewatchError) as caught:
        check_engine(_engine(**changes), "0.32.0", config)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("version", "changes", "says"),
    [
        (
            "0.33.0",
            {},
            r"vLLM 0\.33\.0, V1 model runner, cpu: the tap was proven on vLLM 0\.32\.0, V1 model runner, cpu;",
        ),
        ("0.32.0", {"device_type": "cuda"}, r"V1 model runner, cuda: .* no GPU could be had"),
        (
            "0.32.0",
            {"device_type": "cuda", "use_v2_model_runner": True},
            r"V2 model runner, cuda: .* no GPU could be had",
        ),
        (
            "0.32.0",
            {"speculative_config": SimpleNamespace(method="eagle")},
            "cpu with eagle .* nobody has compared them",
        ),
    ],
)
def test_an_unproven_engine_needs_an_explicit_setting(version: str, changes: dict[str, Any], says: str) -> None:
    config = read_config({"featurewatch": GOOD}, {})
    daring = read_config({"featurewatch": GOOD | {"allow_unproven_engine": True}}, {})
    assert config is not None
    assert daring is not None
    with pytest.raises(FeaturewatchError, match=says):
        check_engine(_engine(**changes), version, config)
    check_engine(_engine(**changes), version, daring)


def test_proven_engines_need_no_setting() -> None:
    config = read_config({"featurewatch": GOOD}, {})
    assert config is not None
    for cell in PROVEN:
        drafting = SimpleNamespace(method=cell.drafting) if cell.drafting else None
        engine = _engine(speculative_config=drafting, use_v2_model_runner=cell.runner == "v2", device_type=cell.device)
        check_engine(engine, f"{cell.version}+local", config)


def test_the_compile_caches_key_holds_the_tapped_graph() -> None:
    config = read_config({"featurewatch": GOOD}, {})
    assert config is not None
    engine = _engine()
    salt_compile_cache(engine, config, op_revision=1)
    assert engine.additional_config == {
        "featurewatch_graph": {"op": 1, "hook_points": ["resid_post.10", "resid_post.14"]}
    }
    engine.additional_config = SimpleNamespace()
    with pytest.raises(FeaturewatchError, match="JSON object"):
        salt_compile_cache(engine, config, op_revision=1)


def test_files_of_tls_come_from_the_key_or_the_environment() -> None:
    environ = {"FEATUREWATCH_TLS_CA": "/e/ca", "FEATUREWATCH_TLS_CERT": "/e/cert", "FEATUREWATCH_TLS_KEY": "/e/key"}
    secure = GOOD | {"sidecar": "tls:monitor.example:7710"}

    def tls_of(settings: dict[str, Any], environ: dict[str, str] = environ) -> ClientTls:
        config = read_config({"featurewatch": settings}, environ)
        assert config is not None
        return config.tls

    from_environment = ClientTls(Path("/e/ca"), Path("/e/cert"), Path("/e/key"))
    assert tls_of(secure) == from_environment
    assert tls_of(secure | {"tls_ca": "/k/ca"}) == ClientTls(Path("/k/ca"), Path("/e/cert"), Path("/e/key"))
    own = {"tls_cert": "/k/cert", "tls_key": "/k/key"}
    assert tls_of(secure | own) == ClientTls(Path("/e/ca"), Path("/k/cert"), Path("/k/key"))
    assert tls_of(secure, {}) == ClientTls()
    # Without TLS the environment, which may be meant for others, says nothing.
    assert tls_of(GOOD) == ClientTls()
    named = {"FEATUREWATCH_SIDECAR": "tls:monitor.example:7710", "FEATUREWATCH_HOOK_POINTS": "resid_post.1"}
    by_environment = read_config({}, environ | named)
    assert by_environment is not None
    assert by_environment.tls == from_environment


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (GOOD | {"tls_ca": "/k/ca"}, "that address is reached without TLS"),
        (GOOD | {"sidecar": "tls:a:1", "tls_key": 3}, "tls_key 3"),
        (GOOD | {"sidecar": "tls:a:1", "tls_ca": ""}, "path of a PEM file"),
    ],
)
def test_tls_settings_that_do_not_fit(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(FeaturewatchError, match=says):
        read_config({"featurewatch": settings}, {})


def test_a_site_that_the_tap_does_not_read_is_refused_with_the_one_that_it_does() -> None:
    settings = {"sidecar": "unix:/run/fw.sock", "hook_points": ["mlp_out.3"]}
    with pytest.raises(FeaturewatchError, match=r"'mlp_out\.3'.*resid_post\.3"):
        read_config({"featurewatch": settings}, {})
