"""Which policies are in force, in which mode, and how that changes while the sidecar runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.policy import Mode, Policy, PolicyError, Problem
from monitor.sae import Catalog
from monitor.sidecar.expired import warn_of_expired
from monitor.sidecar.history import HistoryPool
from monitor.sidecar.modes import Modes, PolicyMode
from monitor.sidecar.policy_audit import Cause, PolicyAudit
from monitor.sidecar.policy_book import PolicyBook
from monitor.sidecar.policy_changes import PolicyChange, RevisionTexts, read_changes
from monitor.sidecar.policy_files import fingerprint
from monitor.sidecar.stale_audit import StaleAudit
from monitor.sidecar.taps import Taps
from monitor.v1.policies_pb2 import PolicyEvent

_log = logging.getLogger(__name__)

_Kind = PolicyEvent.Kind
_MOST_DETAIL = 2000


@dataclass(frozen=True)
class Edition:
    """What is in force for requests that begin now.

    Attributes:
        loaded: by policy, when its text came into force; nanoseconds since the Unix epoch.
        set_by: by policy, who set its mode while the sidecar runs, and why.
    """

    book: PolicyBook
    modes: Modes
    loaded: dict[str, int]
    set_by: dict[str, Cause]

    def mode(self, policy: Policy) -> PolicyMode:
        """As file, start and calls say; a tap may have to fall below it."""
        return self.modes.of(policy)


@dataclass(frozen=True)
class Reload:
    """What a reload did: events of changes, or the problems for which nothing was taken over."""

    events: tuple[PolicyEvent, ...] = ()
    problems: tuple[Problem, ...] = ()


class Rollout:
    """One change at a time, each of them all or nothing and audited. Used on the event loop.

    Attributes:
        current: replaced with every change.
        tried: fingerprint of the policy files that were read last, whether taken over or refused.
        refused: why what was read last is not in force; empty when it is.
        reloads: how many were taken over ("changed", "unchanged") and "refused"; "failed" are looks at the files that
            came to no reading at all.
    """

    def __init__(
        self,
        edition: Edition,
        taps: Taps,
        audit: PolicyAudit,
        *,
        paths: Sequence[Path],
        tried: str,
        catalog: Catalog,
        history: HistoryPool,
        known: RevisionTexts,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`known` are texts that were in force under a name and revision; `clock` as in PolicyAudit."""
        self.current = edition
        self.tried = tried
        self.reloads: Counter[str] = Counter()
        self._taps = taps
        self._audit = audit
        self._paths = paths
        self._catalog = catalog
        self._history = history
        self._known = {**known}
        self._clock = clock
        # Files are read aside of `_changing`: that may take long, and a mode must be set meanwhile.
        self._reading = asyncio.Lock()
        self._changing = asyncio.Lock()
        self.refused: tuple[Problem, ...] = ()
        taps.policies.on_plan = StaleAudit(audit).tell

    def policy(self, name: str) -> Policy:
        """Raises FeaturewatchError with the nearest name."""
        return self.current.book.policy(name)

    def watch_failed(self) -> None:
        """A look at the policy files raised what nobody foresaw."""
        self.reloads["failed"] += 1

    def started(self) -> None:
        """Writes what the sidecar begins with; warns of texts that were exchanged under their revision."""
        events = []
        for policy in self.current.book.policies:
            text = self._known.get((policy.name, policy.revision))
            if text is not None and text != policy.sha256:
                told = "policy %s: revision %d was in force with another text before; raise it with every change"
                _log.warning(told, policy.name, policy.revision)
            mode, _ = self.current.mode(policy)
            events.append(
                self._audit.event(_Kind.KIND_STARTED, Cause("sidecar start"), new=policy, new_mode=mode),
            )
        self._remember(self.current.book.policies)
        warn_of_expired(self.current.book.policies, self._clock())
        self._audit.write(events)

    async def reload(self, cause: Cause, *, again: bool = False) -> Reload:
        """Reads the policy files again. With a problem in any of them all policies stay as they are; with `again` the
        problems of the time before are not told once more."""
        async with self._reading:
            try:
                self.tried = await asyncio.to_thread(fingerprint, self._paths)
                read_from = self._paths, self._catalog, self.current.book, self._known, self._history.page_bytes
                book, changes = await asyncio.to_thread(read_changes, *read_from)
                if not changes:
                    self.refused = ()
                    self.reloads["unchanged"] += 1
                    return Reload()
                return await self._take_over(cause, book, changes)
            except PolicyError as error:
                return self._refuse(cause, error.problems, again=again)
            except FeaturewatchError as error:
                problem = self._problem(error.subject, error.rule, error.remedy)
                return self._refuse(cause, [problem], again=again)
            except Exception as error:  # noqa: BLE001
                # That the old policies stay must be counted and kept in the history whatever the reason.
                _log.exception("policies could not be read again")
                problem = self._problem(type(error).__name__, str(error), "see the sidecar's log")
                return self._refuse(cause, [problem], again=again)

    def _problem(self, value: str, rule: str, remedy: str) -> Problem:
        """Of no single file."""
        return Problem(", ".join(map(str, self._paths)), 1, "", value, rule, remedy)

    async def _take_over(self, cause: Cause, book: PolicyBook, changes: Sequence[PolicyChange]) -> Reload:
        async with self._changing:
            old = self.current
            new = _edition_after(old, book, changes, self._clock())
            await self._taps.change(book, new.modes, new_edition=True)
            self.current = new
            self.refused = ()
            self._remember(book.policies)
            warn_of_expired(book.policies, self._clock())
            self.reloads["changed"] += 1
            events = [self._changed(cause, change, old, new) for change in changes]
            self._audit.write(events)
            return Reload(tuple(events))

    async def set_mode(self, name: str, mode: Mode | None, cause: Cause) -> None:
        """Overrides a policy's mode; None takes the override back. Raises FeaturewatchError: it is not known, or cannot
        be switched on."""
        async with self._changing:
            old = self.current
            policy = old.book.policy(name)
            if mode is None and name not in old.modes.runtime:
                return
            set_by = {other: kept for other, kept in old.set_by.items() if other != name}
            if mode is not None:
                set_by[name] = cause
            new = Edition(old.book, old.modes.with_runtime(name, mode), old.loaded, set_by)
            before, after = old.mode(policy).mode, new.mode(policy).mode
            # What is off is not watched at all: the directions of a policy that is switched on or off come and go with
            # an edition of their own. To compile it takes time, and to be silent must not wait for that.
            comes, goes = before is Mode.OFF and after is not Mode.OFF, before is not Mode.OFF and after is Mode.OFF
            await self._taps.change(new.book, new.modes, new_edition=comes)
            self.current = new
            kind = _Kind.KIND_MODE_RESET if mode is None else _Kind.KIND_MODE_SET
            self._audit.write([self._audit.event(kind, cause, old=policy, new=policy, old_mode=before, new_mode=after)])
            if goes:
                await self._taps.change(new.book, new.modes, new_edition=True)

    def _refuse(self, cause: Cause, problems: Sequence[Problem], *, again: bool) -> Reload:
        before, self.refused = self.refused, tuple(problems)
        if again and self.refused == before:
            return Reload(problems=before)
        self.reloads["refused"] += 1
        for problem in problems:
            _log.error("policies stay as they are: %s", problem)
        told = "; ".join(map(str, problems))
        named = {problem.file for problem in problems}
        names = [policy.name for policy in self.current.book.policies if named == {policy.file}]
        detail = told if len(told) <= _MOST_DETAIL else f"{told[:_MOST_DETAIL]}… ({len(problems)} problems)"
        policy = names[0] if names else ""
        self._audit.write([self._audit.event(_Kind.KIND_REFUSED, cause, policy=policy, detail=detail)])
        return Reload(problems=tuple(problems))

    def _changed(self, cause: Cause, change: PolicyChange, old: Edition, new: Edition) -> PolicyEvent:
        kind = _Kind.KIND_CHANGED
        if change.old is None:
            kind = _Kind.KIND_ADDED
        elif change.new is None:
            kind = _Kind.KIND_REMOVED
        return self._audit.event(
            kind,
            cause,
            old=change.old,
            new=change.new,
            old_mode=old.mode(change.old).mode if change.old is not None else None,
            new_mode=new.mode(change.new).mode if change.new is not None else None,
        )

    def _remember(self, policies: Sequence[Policy]) -> None:
        self._known.update({(policy.name, policy.revision): policy.sha256 for policy in policies})


def _edition_after(old: Edition, book: PolicyBook, changes: Sequence[PolicyChange], now: int) -> Edition:
    names = {policy.name for policy in book.policies}
    came = {change.name: now for change in changes if change.new is not None}
    return Edition(
        book,
        old.modes.kept_for(names),
        {name: came.get(name, old.loaded.get(name, now)) for name in names},
        {name: cause for name, cause in old.set_by.items() if name in names},
    )
