"""The sidecar behind TLS: who gets in, who does not, and what each is told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_tap import connect
from session_calls import policies
from sidecar_kit import World, running_sidecar
from support.certificates import Authority
from typer.testing import CliRunner

from monitor.cli.main import app
from monitor.errors import FeaturewatchError
from monitor.rpc import ClientTls, ServerTls, Target, call_error, open_aio_channel
from monitor.sidecar.server import Sidecar

LISTEN = Target.parse("tls:127.0.0.1:0")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def config(world: World, authority: Authority, *, mutual: bool = False, **issue: Any) -> Any:
    pair = authority.issue("server", **issue)
    tls = ServerTls(pair.cert, pair.key, authority.ca if mutual else None)
    return world.config(listen=(LISTEN,), tls=tls)


async def refusal(sidecar: Sidecar, tls: ClientTls) -> str:
    """What a client is told that may not speak with the sidecar."""
    (target,) = sidecar.listening
    async with open_aio_channel(target, tls) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await policies(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return str(call_error(caught.value, target))


async def test_a_client_that_trusts_the_authority_gets_in(world: World, authority: Authority) -> None:
    async with running_sidecar(config(world, authority)) as sidecar:
        (target,) = sidecar.listening
        assert target.tls
        assert target.port
        async with open_aio_channel(target, ClientTls(ca=authority.ca)) as channel:
            tap = await connect(channel)
            assert len((await policies(channel)).taps) == 1
            tap.drop()


async def test_a_client_without_tls_gets_nothing(world: World, authority: Authority) -> None:
    async with running_sidecar(config(world, authority)) as sidecar:
        (target,) = sidecar.listening
        async with open_aio_channel(Target(host=target.host, port=target.port)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await policies(channel)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_another_authority_is_not_trusted(world: World, authority: Authority, tmp_path: Path) -> None:
    async with running_sidecar(config(world, authority)) as sidecar:
        told = await refusal(sidecar, ClientTls(ca=Authority(tmp_path, "other").ca))
    assert "CERTIFICATE_VERIFY_FAILED" in told
    assert "--tls-ca" in told


async def test_a_certificate_for_another_host_is_refused(world: World, authority: Authority) -> None:
    async with running_sidecar(config(world, authority, host="sidecar.example")) as sidecar:
        told = await refusal(sidecar, ClientTls(ca=authority.ca))
    assert "that the certificate names this host" in told
    assert "Hostname Verification Check failed" in told


async def test_an_expired_certificate_is_refused(world: World, authority: Authority) -> None:
    async with running_sidecar(config(world, authority, expired=True)) as sidecar:
        told = await refusal(sidecar, ClientTls(ca=authority.ca))
    assert "certificate has expired" in told


async def test_mutual_tls_wants_a_certificate_of_the_client(world: World, authority: Authority, tmp_path: Path) -> None:
    async with running_sidecar(config(world, authority, mutual=True)) as sidecar:
        assert "--tls-cert" in await refusal(sidecar, ClientTls(ca=authority.ca))
        stranger = Authority(tmp_path, "other").issue("stranger")
        assert "--tls-cert" in await refusal(sidecar, ClientTls(authority.ca, stranger.cert, stranger.key))
        known = authority.issue("client")
        (target,) = sidecar.listening
        async with open_aio_channel(target, ClientTls(authority.ca, known.cert, known.key)) as channel:
            assert (await policies(channel)).plan_version == 1


async def test_addresses_and_files_must_fit(world: World, authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.issue("server"), authority.issue("other")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    tls = (LISTEN,)
    cases: list[tuple[tuple[Target, ...], ServerTls | None, str]] = [
        (tls, None, "TLS needs a certificate and its key"),
        ((Target(path=world.socket),), ServerTls(pair.cert, pair.key), "no address is served with TLS"),
        (tls, ServerTls(tmp_path / "none.pem", pair.key), "No such file or directory"),
        (tls, ServerTls(pair.cert, other.key), "a certificate chain and its own private key"),
        (tls, ServerTls(text, pair.key), "a certificate chain and its own private key"),
        (tls, ServerTls(pair.cert, authority.encrypted_key()), "nobody is there to ask for the pass phrase"),
        (tls, ServerTls(pair.cert, pair.key, text), "one or more certificates in PEM form"),
    ]
    for listen, server_tls, says in cases:
        with pytest.raises(FeaturewatchError, match=says):
            async with running_sidecar(world.config(listen=listen, tls=server_tls)):
                pass


async def test_the_network_may_be_served_with_tls_only(
    world: World, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    pair = authority.issue("server", host="127.0.0.1")
    everywhere = Target.parse("tls:0.0.0.0:0")
    async with running_sidecar(world.config(listen=(everywhere,), tls=ServerTls(pair.cert, pair.key))) as sidecar:
        reached = Target(host="127.0.0.1", port=sidecar.listening[0].port, tls=True)
        async with open_aio_channel(reached, ClientTls(ca=authority.ca)) as channel:
            assert (await policies(channel)).plan_version == 1
    assert "clients are not asked for certificates" in caplog.text
    with pytest.raises(FeaturewatchError, match=r"Write tls:0\.0\.0\.0:0"):
        async with running_sidecar(world.config(listen=(Target.parse("0.0.0.0:0"),))):
            pass


async def test_command_line_clients_take_options_or_environment(
    world: World, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = authority.issue("client")
    options = ["--tls-ca", str(authority.ca), "--tls-cert", str(client.cert), "--tls-key", str(client.key)]

    async def run(*arguments: str) -> Any:
        return await asyncio.to_thread(CliRunner().invoke, app, arguments)

    async with running_sidecar(config(world, authority, mutual=True)) as sidecar:
        listing = ("audit", "list", "--sidecar", str(sidecar.listening[0]))
        by_options = await run(*listing, *options)
        assert "No generation was flagged yet" in by_options.stdout
        nothing = await run(*listing)
        assert isinstance(nothing.exception, FeaturewatchError)
        monkeypatch.setenv("FEATUREWATCH_TLS_CA", str(authority.ca))
        monkeypatch.setenv("FEATUREWATCH_TLS_CERT", str(client.cert))
        half = await run(*listing)
        assert "a client certificate without its key" in str(half.exception)
        monkeypatch.setenv("FEATUREWATCH_TLS_KEY", str(client.key))
        by_environment = await run(*listing)
        assert by_environment.stdout == by_options.stdout
    refused = await run("audit", "list", "--sidecar", "127.0.0.1:1", *options)
    assert "reached without TLS" in str(refused.exception)


@pytest.mark.parametrize("options", [["--tls-cert", "a"], ["--tls-key", "a"], ["--tls-client-ca", "a"]])
def test_half_of_the_server_s_options_is_refused(options: list[str]) -> None:
    result = CliRunner().invoke(app, ["sidecar", *options])
    assert isinstance(result.exception, FeaturewatchError)
    assert "Give both --tls-cert and --tls-key" in str(result.exception)
