"""Kernels also work where no compiled code can be kept."""

from __future__ import annotations

import logging

import numba
import pytest

from monitor.policy.jit import kernel


def add_one(value):  # type: ignore[no-untyped-def]
    return value + 1


def test_compiles_in_every_process_where_no_cache_can_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain_njit = numba.njit

    def njit(*, cache: bool = False, nogil: bool = False):  # type: ignore[no-untyped-def]
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return plain_njit(nogil=nogil)

    with caplog.at_level(logging.INFO), monkeypatch.context() as patch:
        patch.setattr(numba, "njit", njit)
        compiled = kernel(add_one)
    assert compiled(1) == 2
    assert "compiled anew in every process" in caplog.text
