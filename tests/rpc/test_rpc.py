"""What both ends of a connection share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.errors import FeaturewatchError
from monitor.rpc import (
    CHANNEL_OPTIONS,
    SERVER_OPTIONS,
    Target,
    WireFormatError,
    floats_from_bytes,
    floats_to_bytes,
    from_name,
    ints_from_bytes,
    ints_to_bytes,
    name_of,
)
from monitor.v1.alerts_pb2 import Mode, Severity


@pytest.mark.parametrize(
    ("text", "shown", "loopback"),
    [
        ("unix:/run/fw.sock", "unix:/run/fw.sock", True),
        ("unix:///run/fw.sock", "unix:/run/fw.sock", True),
        ("127.0.0.1:7710", "127.0.0.1:7710", True),
        ("localhost:0", "localhost:0", True),
        ("[::1]:7710", "[::1]:7710", True),
        ("0.0.0.0:7710", "0.0.0.0:7710", False),
        ("sidecar.monitoring:7710", "sidecar.monitoring:7710", False),
        ("127.0.0.1.example.org:1", "127.0.0.1.example.org:1", False),
    ],
)
def test_targets(text: str, shown: str, loopback: bool) -> None:
    target = Target.parse(text)
    assert str(target) == target.grpc == shown
    assert target.is_loopback is loopback
    assert not target.tls
    if not target.is_unix:
        encrypted = Target.parse(f"tls:{text}")
        assert (str(encrypted), encrypted.grpc, encrypted.tls) == (f"tls:{shown}", shown, True)
        assert encrypted.is_loopback is loopback


def test_a_relative_socket_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Target.parse("unix:a.sock").path == tmp_path / "a.sock"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unix:<path>, host:port or tls:host:port"),
        ("unix:", "must be followed by a path"),
        ("localhost", "unix:<path>, host:port or tls:host:port"),
        ("localhost:", "unix:<path>, host:port or tls:host:port"),
        ("localhost:70000", "port 70000 is above 65535"),
        ("http://localhost:1", "unix:<path>, host:port or tls:host:port"),
        ("tls:unix:/run/fw.sock", "unix:<path>, host:port or tls:host:port"),
        ("tls:7710", "unix:<path>, host:port or tls:host:port"),
        ("::1:80", "unix:<path>, host:port or tls:host:port"),
        ("unix:/" + "x" * 107, "of 108 bytes"),
    ],
)
def test_bad_targets_are_refused(text: str, says: str) -> None:
    with pytest.raises(FeaturewatchError) as caught:
        Target.parse(text)
    assert says in str(caught.value)


def test_clients_ping_no_more_often_than_servers_permit() -> None:
    client, server = dict(CHANNEL_OPTIONS), dict(SERVER_OPTIONS)
    assert client["grpc.keepalive_time_ms"] > server["grpc.http2.min_ping_interval_without_data_ms"]
    assert client["grpc.max_send_message_length"] <= server["grpc.max_receive_message_length"]
    assert server["grpc.max_send_message_length"] <= client["grpc.max_receive_message_length"]


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=24))
def test_floats_survive_the_wire(values: list[float]) -> None:
    array = np.array(values, np.float32).reshape(-1, 1)
    back = floats_from_bytes(floats_to_bytes(array), array.shape, "values")
    np.testing.assert_array_equal(back, array)
    assert not back.flags.writeable


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=24))
def test_ints_survive_the_wire(values: list[int]) -> None:
    assert ints_from_bytes(ints_to_bytes(np.array(values, np.int64)), "ids").tolist() == values


def test_bytes_are_little_endian_and_row_major() -> None:
    assert ints_to_bytes(np.array([1, -2])) == b"\x01\0\0\0\xfe\xff\xff\xff"
    assert floats_to_bytes(np.array([[1, 2], [3, 4]]).T) == np.array([1, 3, 2, 4], "<f4").tobytes()


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(WireFormatError, match=r"values has 5 bytes, expected 8 for float32 \[1, 2\]"):
        floats_from_bytes(b"12345", (1, 2), "values")
    with pytest.raises(WireFormatError, match="no whole number of int32"):
        ints_from_bytes(b"12345", "ids")
    with pytest.raises(WireFormatError, match="ids has 4 bytes, expected 8"):
        ints_from_bytes(b"1234", "ids", 2)


def test_enum_names() -> None:
    assert name_of(Severity, Severity.SEVERITY_HIGH) == "high"
    assert name_of(Mode, 99) == "99"
    assert from_name(Mode, "shadow") == Mode.MODE_SHADOW
    for bad in ("loud", "unspecified", ""):
        with pytest.raises(FeaturewatchError, match="known are off, shadow, alert, enforce"):
            from_name(Mode, bad)
