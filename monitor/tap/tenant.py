"""Whom a request is for, as whoever sent it says in vLLM's per-request `extra_args`."""

from __future__ import annotations

from typing import Any, Final

KEY: Final = "tenant"
"""Of `SamplingParams.extra_args`, which clients of the OpenAI API fill through `vllm_xargs`."""
LONGEST_TENANT: Final = 256


def tenant_of(sampling_params: Any) -> str:
    """The tenant that a request's sampling params name; empty when they name none.

    Args:
        sampling_params: vLLM's `SamplingParams`; None for a pooling request, which has no tenant.

    Raises:
        ValueError: it is no text of at most `LONGEST_TENANT` characters. The message does not hold the value.
    """
    arguments = getattr(sampling_params, "extra_args", None)
    tenant = arguments.get(KEY) if arguments else None
    if tenant is None:
        return ""
    if not isinstance(tenant, str):
        raise ValueError(f"its tenant is of type {type(tenant).__name__}, it must be a text")
    if len(tenant) > LONGEST_TENANT:
        raise ValueError(f"its tenant has {len(tenant)} characters, at most {LONGEST_TENANT} are taken")
    # Lone surrogates are no text, and protobuf does not send them.
    tenant.encode()
    return tenant
