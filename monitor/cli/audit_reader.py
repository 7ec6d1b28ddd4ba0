"""Where `featurewatch audit` reads: a running sidecar, or the store's file."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

import grpc
from rich.markup import escape

from monitor.audit import AuditStore, PageKey, resolve
from monitor.cli.common import client_tls, default_socket, err_console, home
from monitor.errors import FeaturewatchError
from monitor.rpc import ClientTls, Target, call_error, open_channel
from monitor.v1.generations_pb2 import (
    CaptureGenerationRequest,
    GenerationRecord,
    GenerationSummary,
    GetGenerationRequest,
    ListGenerationsRequest,
)
from monitor.v1.generations_pb2_grpc import GenerationServiceStub

_SECONDS = 10.0
# Encoding thousands of rows with a large dictionary takes a while.
_CAPTURE_SECONDS = 300.0
_LARGEST_PAGE = 1000


def default_store() -> Path:
    """The SQLite file that a sidecar writes when it is told nothing else."""
    return home() / "audit.sqlite"


class Reader(Protocol):
    def summaries(self, limit: int, *, unflagged: bool, tenant: str = "") -> list[GenerationSummary]:
        """The newest first; with `tenant`, a shell pattern, those of requests that name one which it fits."""
        ...

    def record(self, id_: str) -> GenerationRecord: ...

    def since(self, unix_nanos: int) -> Iterator[GenerationRecord]:
        """Stored records of generations that began then or later, the newest first."""
        ...

    def capture(self, id_: str, hook_points: Sequence[str]) -> GenerationRecord: ...


@contextmanager
def open_reader(sidecar: str | None, store: Path | None, tls: ClientTls) -> Iterator[Reader]:
    """The store if one is named, else the sidecar; without both the default sidecar, or its store when it is down.

    `tls` is what the options say.
    """
    if store is None and sidecar is None:
        default = Target.parse(default_socket())
        if default.path is not None and default_store().is_file() and not _listens(default.path):
            store = default_store()
            err_console.print(
                f"[dim]No sidecar at {escape(str(default))}; reading {escape(str(store))}.[/dim]", highlight=False
            )
    if store is not None:
        if sidecar is not None:
            raise FeaturewatchError("--sidecar and --store", "only one of them can be read", "leave one of them out")
        audit = AuditStore(store, read_only=True)
        try:
            yield StoreReader(audit)
        finally:
            audit.close()
        return
    target = Target.parse(sidecar or default_socket())
    with open_channel(target, client_tls(target, tls.ca, tls.cert, tls.key)) as channel:
        yield SidecarReader(channel, target)


def _listens(path: Path) -> bool:
    """Whether a process listens on a Unix socket; the file alone may be what a killed one left."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_SECONDS)
            probe.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError:
        # Something else is wrong, for example with permissions: the call itself tells what.
        return True
    return True


def _told(error: grpc.RpcError, target: Target) -> FeaturewatchError:
    told = call_error(error, target)
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        remedy = f"{told.remedy}; without a sidecar, read the file that it wrote with --store FILE"
        return FeaturewatchError(told.subject, told.rule, remedy)
    return told


def _page_size(wanted: int, tenant: str) -> int:
    """Of a page of which perhaps few are wanted it takes many."""
    return _LARGEST_PAGE if tenant else min(wanted, _LARGEST_PAGE)


def _is_of(summary: GenerationSummary, tenant: str) -> bool:
    return not tenant or (bool(summary.tenant) and fnmatchcase(summary.tenant, tenant))


class StoreReader:
    def __init__(self, store: AuditStore) -> None:
        self._store = store

    def summaries(self, limit: int, *, unflagged: bool, tenant: str = "") -> list[GenerationSummary]:
        if unflagged:
            raise FeaturewatchError(
                f"--all with the store {self._store.path}",
                "a store holds flagged generations only",
                "ask the running sidecar (--sidecar) or leave --all out",
            )
        found, before = list[GenerationSummary](), None
        while len(found) < limit:
            page = self._store.page(_page_size(limit - len(found), tenant), before)
            found += [summary for summary in page if _is_of(summary, tenant)]
            if not page:
                break
            before = PageKey.of(page[-1])
        return found[:limit]

    def record(self, id_: str) -> GenerationRecord:
        record = self._store.get(resolve(id_, self._store.candidates(id_)))
        assert record is not None  # nothing deletes from a store
        return record

    def since(self, unix_nanos: int) -> Iterator[GenerationRecord]:
        before: PageKey | None = None
        while page := self._store.page(_LARGEST_PAGE, before):
            for summary in page:
                if summary.start_unix_nanos < unix_nanos:
                    return
                record = self._store.get(summary.generation_id)
                assert record is not None  # nothing deletes from a store
                yield record
            before = PageKey.of(page[-1])

    def capture(self, id_: str, hook_points: Sequence[str]) -> GenerationRecord:
        raise FeaturewatchError(
            f"capture of generation {id_!r}",
            "rows come out of a running engine, through its sidecar",
            "give the sidecar's address with --sidecar instead of --store",
        )


class SidecarReader:
    def __init__(self, channel: grpc.Channel, target: Target) -> None:
        self._stub = GenerationServiceStub(channel)
        self._target = target

    def summaries(self, limit: int, *, unflagged: bool, tenant: str = "") -> list[GenerationSummary]:
        found: list[GenerationSummary] = []
        token = ""
        try:
            while len(found) < limit:
                size = _page_size(limit - len(found), tenant)
                request = ListGenerationsRequest(include_unflagged=unflagged, page_size=size, page_token=token)
                response = self._stub.ListGenerations(request, timeout=_SECONDS)
                found += [summary for summary in response.generations if _is_of(summary, tenant)]
                token = response.next_page_token
                if not token:
                    break
        except grpc.RpcError as error:
            raise _told(error, self._target) from error
        return found[:limit]

    def record(self, id_: str) -> GenerationRecord:
        try:
            return self._stub.GetGeneration(GetGenerationRequest(id=id_), timeout=_SECONDS).generation
        except grpc.RpcError as error:
            raise _told(error, self._target) from error

    def since(self, unix_nanos: int) -> Iterator[GenerationRecord]:
        token, more = "", True
        while more:
            try:
                response = self._stub.ListGenerations(
                    ListGenerationsRequest(page_size=_LARGEST_PAGE, page_token=token), timeout=_SECONDS
                )
            except grpc.RpcError as error:
                raise _told(error, self._target) from error
            for summary in response.generations:
                if summary.start_unix_nanos < unix_nanos:
                    return
                yield self.record(summary.generation_id)
            token = response.next_page_token
            more = bool(token)

    def capture(self, id_: str, hook_points: Sequence[str]) -> GenerationRecord:
        """Has a generation captured and returns its record, once it has the evidence."""
        request = CaptureGenerationRequest(id=id_, hook_points=hook_points)
        try:
            captured = self._stub.CaptureGeneration(request, timeout=_CAPTURE_SECONDS)
        except grpc.RpcError as error:
            raise _told(error, self._target) from error
        return self.record(captured.generation_id)
