"""The process that encodes full dictionaries."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sidecar_kit import LATENTS, WIDTH, make_dictionary

from monitor.rpc import floats_to_bytes
from monitor.sae import Dictionary, HookPoint, Relu, load_saelens, save_saelens, top_latents
from monitor.sidecar.evidence.encode_cuda import CudaEncoder
from monitor.sidecar.evidence.encode_process import Dictionaries
from monitor.sidecar.evidence.encoder import Encoder, EncodingError
from monitor.v1.tap_pb2 import ResidualRows

ROWS = np.random.default_rng(1).standard_normal((6, WIDTH), np.float32)


def rows(values_nd: np.ndarray = ROWS, first: int = 10) -> ResidualRows:
    count, width = values_nd.shape
    values = floats_to_bytes(values_nd)
    return ResidualRows(first_position=first, row_count=count, width=width, dtype="float32", values=values)


async def test_evidence_is_the_dense_computation_and_rows_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    folder = save_saelens(make_dictionary(3), tmp_path / "sae")
    dictionary = load_saelens(folder)
    with_nan = ROWS.copy()
    with_nan[2, 0] = np.nan
    encoder = Encoder()
    try:
        evidence = await encoder.encode(folder, dictionary.sha256, rows(with_nan))
    finally:
        await encoder.close()
    finite = [0, 1, 3, 4, 5]
    f_nm = dictionary.encode(ROWS[finite])
    left_nd = ROWS[finite] - dictionary.decode(f_nm)
    assert [token.position for token in evidence.tokens] == [10 + n for n in finite]
    assert (evidence.sae_sha256, evidence.num_latents, evidence.device) == (dictionary.sha256, LATENTS, "cpu")
    for token, f_m, x_d, left_d in zip(evidence.tokens, f_nm, ROWS[finite], left_nd, strict=True):
        assert token.active == np.count_nonzero(f_m) == len(token.latents)
        assert set(token.latents) == set(np.flatnonzero(f_m))
        np.testing.assert_allclose(token.activations, f_m[list(token.latents)], rtol=1e-5)
        assert list(token.activations) == sorted(token.activations, reverse=True)
        assert token.error == pytest.approx((left_d @ left_d) / (x_d @ x_d), rel=1e-4)


async def test_what_cannot_be_encoded_is_told_and_the_process_goes_on(tmp_path: Path) -> None:
    folder = save_saelens(make_dictionary(3), tmp_path / "sae")
    sha256 = load_saelens(folder).sha256
    encoder = Encoder()
    try:
        with pytest.raises(EncodingError, match="it must hold cfg"):
            await encoder.encode(tmp_path / "nothing", sha256, rows())
        with pytest.raises(EncodingError, match="Restart the sidecar after changing an SAE"):
            await encoder.encode(folder, "0" * 64, rows())
        with pytest.raises(EncodingError, match="width"):
            await encoder.encode(folder, sha256, rows(np.ones((2, WIDTH + 1), np.float32)))
        pid = encoder.pid
        many = await asyncio.gather(*(encoder.encode(folder, sha256, rows(ROWS[n:], first=n)) for n in range(6)))
        assert [len(evidence.tokens) for evidence in many] == [6, 5, 4, 3, 2, 1]
        assert [evidence.tokens[0].position for evidence in many] == [*range(6)]
        assert encoder.pid == pid
    finally:
        await encoder.close()


async def test_a_process_that_dies_is_started_again(tmp_path: Path) -> None:
    folder = save_saelens(make_dictionary(3), tmp_path / "sae")
    sha256 = load_saelens(folder).sha256
    encoder = Encoder()
    try:
        await encoder.encode(folder, sha256, rows())
        first = encoder.pid
        assert first is not None
        assert os.getpriority(os.PRIO_PROCESS, first) >= 10
        os.kill(first, signal.SIGKILL)
        with pytest.raises(EncodingError, match="the encoding process failed"):
            await encoder.encode(folder, sha256, rows())
        assert len((await encoder.encode(folder, sha256, rows())).tokens) == 6
        assert encoder.pid != first
    finally:
        await encoder.close()
    with pytest.raises(EncodingError, match="shutting down"):
        await encoder.encode(folder, sha256, rows())


async def test_a_capture_that_is_given_up_does_not_mix_up_answers(tmp_path: Path) -> None:
    folder = save_saelens(make_dictionary(3), tmp_path / "sae")
    sha256 = load_saelens(folder).sha256
    encoder = Encoder()
    try:
        given_up = asyncio.create_task(encoder.encode(folder, sha256, rows(first=100)))
        await asyncio.sleep(0.05)
        given_up.cancel()
        await asyncio.wait([given_up])
        evidence = await encoder.encode(folder, sha256, rows(first=7))
        assert evidence.tokens[0].position == 7
    finally:
        await encoder.close()


def test_the_process_ends_with_a_sidecar_that_is_killed(tmp_path: Path) -> None:
    folder = save_saelens(make_dictionary(3), tmp_path / "sae")
    program = f"""
import asyncio, os, signal, sys
from pathlib import Path
from monitor.sae import load_saelens
from monitor.sidecar.evidence.encoder import Encoder
from monitor.v1.tap_pb2 import ResidualRows

async def main():
    encoder, folder = Encoder(), Path({str(folder)!r})
    rows = ResidualRows(row_count=1, width={WIDTH}, dtype="float32", values=bytes({4 * WIDTH}))
    await encoder.encode(folder, load_saelens(folder).sha256, rows)
    print(encoder.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for _ in range(200):
        if not runs(int(killed.stdout)):
            return
        time.sleep(0.05)
    pytest.fail("the encoding process outlives its sidecar")


def runs(pid: int) -> bool:
    """False also for a process that has ended and that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def test_kept_dictionaries_are_bounded(tmp_path: Path) -> None:
    folders = [str(save_saelens(make_dictionary(layer), tmp_path / f"sae-{layer}")) for layer in range(4)]
    hashes = [load_saelens(Path(folder)).sha256 for folder in folders]
    size = make_dictionary(0).w_enc_md.nbytes * 2
    kept = Dictionaries(most_bytes=2 * size)
    first = kept.get(folders[0], hashes[0])
    second = kept.get(folders[1], hashes[1])
    assert kept.get(folders[0], hashes[0]) is first
    kept.get(folders[2], hashes[2])
    assert kept.get(folders[0], hashes[0]) is first
    assert kept.get(folders[1], hashes[1]) is not second


@pytest.mark.parametrize("relu", [True, False])
def test_the_torch_encoder_agrees_with_numpy(relu: bool) -> None:
    """On the CPU: there is no GPU where this is tested."""
    one = make_dictionary(3)
    if relu:
        one = Dictionary(one.w_enc_md, one.b_enc_m, one.w_dec_md, one.b_dec_d, Relu(), HookPoint(3), "tiny")
    x_nd = np.random.default_rng(2).standard_normal((600, WIDTH), np.float32)
    torch_ones, numpy_ones = CudaEncoder("cpu").top_latents(one, x_nd), top_latents(one, x_nd)
    np.testing.assert_allclose(torch_ones.activations_nk, numpy_ones.activations_nk, atol=1e-5)
    np.testing.assert_array_equal(torch_ones.active_n, numpy_ones.active_n)
    np.testing.assert_allclose(torch_ones.error_n, numpy_ones.error_n, rtol=1e-4)
    active = numpy_ones.activations_nk > 0
    np.testing.assert_array_equal(torch_ones.latents_nk[active], numpy_ones.latents_nk[active])
