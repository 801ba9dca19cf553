"""Leases in the process's memory: the same decisions as in a database, with a clock that tests can set."""

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from truecopy_bus.leases import Fence, Lease, Share, fair_share

__all__ = ["MemoryLeases"]

_CLAIM_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    fence: Fence
    holder: str = ""
    until_s: float = 0.0


class MemoryLeases:
    """The leases and members of one scope, see truecopy_bus.leases. `clock` tells seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._leases: dict[int, _Held] = {}
        self._members: dict[str, float] = {}

    def prepare(self, partitions: int) -> None:
        for partition in range(partitions):
            self._leases.setdefault(partition, _Held(fence=Fence(partition=partition, epoch=0, claim=b"")))

    def renew(self, me: str, held: Collection[Fence], *, lease_s: float, seize: bool) -> dict[int, Fence]:
        now = self._clock()
        self._members[me] = now + lease_s
        self._members = {member: until for member, until in self._members.items() if until >= now}
        leases = [Lease(fence=one.fence, holder=one.holder, alive=one.until_s > now) for one in self._leases.values()]
        share = Share(frozenset(self._leases), frozenset()) if seize else fair_share(leases, self._members, me)
        kept: dict[int, Fence] = {}
        for partition, one in self._leases.items():
            fence = one.fence
            if partition in share.take:
                fence = Fence(partition=partition, epoch=fence.epoch + 1, claim=secrets.token_bytes(_CLAIM_BYTES))
            elif fence not in held:
                continue
            if partition in share.give:
                self._leases[partition] = _Held(fence=fence)
            else:
                self._leases[partition] = _Held(fence=fence, holder=me, until_s=now + lease_s)
                kept[partition] = fence
        return kept

    def hold(self, fences: Collection[Fence]) -> frozenset[int]:
        return frozenset(f.partition for f in fences if f.partition in self._leases and self._leases[f.partition].fence == f)

    def leave(self, me: str, held: Collection[Fence]) -> None:
        self._members.pop(me, None)
        for partition in self.hold(held):
            self._leases[partition] = replace(self._leases[partition], holder="", until_s=0.0)
