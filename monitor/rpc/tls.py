"""Certificates and keys of both ends of a TLS connection, read from PEM files and checked before gRPC sees them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from monitor.errors import FeaturewatchError

ENV_CA: Final = "FEATUREWATCH_TLS_CA"
ENV_CERT: Final = "FEATUREWATCH_TLS_CERT"
ENV_KEY: Final = "FEATUREWATCH_TLS_KEY"


@dataclass(frozen=True)
class ClientTls:
    """What a client trusts and shows.

    Attributes:
        ca: certificates of those who sign servers; None trusts the public authorities that gRPC carries.
        cert, key: the client's own chain and key, for servers that ask for one; both or none.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> ClientTls:
        """`FEATUREWATCH_TLS_CA`, `FEATUREWATCH_TLS_CERT`, `FEATUREWATCH_TLS_KEY`; empty ones count as not set."""
        ca, cert, key = (_path(environ.get(name, "")) for name in (ENV_CA, ENV_CERT, ENV_KEY))
        return cls(ca, cert, key)

    def __bool__(self) -> bool:
        return any((self.ca, self.cert, self.key))

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files; raises FeaturewatchError."""
        ca = None if self.ca is None else _authorities(self.ca)
        if self.cert is None and self.key is None:
            return grpc.ssl_channel_credentials(ca)
        cert, key = _pair(self.cert, self.key, "client")
        return grpc.ssl_channel_credentials(ca, key, cert)


@dataclass(frozen=True)
class ServerTls:
    """What a server shows, and whom it lets in.

    Attributes:
        cert, key: the server's chain and key.
        client_ca: certificates of those who sign clients; None lets in every client that trusts the server.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Reads the files; raises FeaturewatchError."""
        cert, key = _pair(self.cert, self.key, "server")
        ca = None if self.client_ca is None else _authorities(self.client_ca)
        return grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=ca is not None)


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _authorities(path: Path) -> bytes:
    data = _read(path, "CA file")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise FeaturewatchError(
            f"CA file {path} ({_reason(error)})",
            "it must hold one or more certificates in PEM form",
            "give the certificate of the authority that signed the other side's",
        ) from error
    return data


def _pair(cert: Path | None, key: Path | None, whose: str) -> tuple[bytes, bytes]:
    if cert is None or key is None:
        given, missing = ("certificate", "key") if key is None else ("key", "certificate")
        raise FeaturewatchError(
            f"a {whose} {given} without its {missing}", "TLS needs both", f"give the {missing} too, or leave both out"
        )
    data, secret = _read(cert, f"{whose} certificate"), _read(key, f"{whose} key")
    if b"ENCRYPTED" in secret:
        raise FeaturewatchError(
            f"{whose} key {key}",
            "it is encrypted, and nobody is there to ask for the pass phrase",
            "write it without one (openssl pkey -in KEY -out PLAIN_KEY) and protect the file by its mode",
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except ssl.SSLError as error:
        raise FeaturewatchError(
            f"{whose} certificate {cert} with key {key} ({_reason(error)})",
            "they must be a certificate chain and its own private key, in PEM form",
            "give the two files that were made together",
        ) from error
    return data, secret


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FeaturewatchError(
            f"{what} {path} ({error.strerror})", "it must be readable", "check the path and its permissions"
        ) from error


def _reason(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else "") or str(error)
