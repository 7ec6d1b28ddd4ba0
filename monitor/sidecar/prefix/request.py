"""What a live request knows of its token prefixes."""

from __future__ import annotations

from dataclasses import dataclass, field

from monitor.rpc.prefix_chain import PrefixChain
from monitor.sidecar.prefix.states import PrefixFiring, PrefixKey


@dataclass(slots=True, eq=False)
class RequestPrefix:
    """A request's prefixes so far.

    Attributes:
        chain: hashes of its blocks, as far as they were needed.
        ahead: (end, key) of blocks that were hashed to look whether they are known, and not settled yet.
        key: of the longest prefix that was kept or found.
        last_firing: of the rules that fired on it.
        healed: positions not seen before the latest restored boundary; -1 when something else keeps it from being as
            a cold run.
    """

    chain: PrefixChain
    ahead: list[tuple[int, PrefixKey]] = field(default_factory=list)
    key: PrefixKey | None = None
    last_firing: PrefixFiring | None = None
    healed: int = 0
