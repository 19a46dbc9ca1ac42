"""Who said that they serve which discovery key: what a node keeps for others, for a while.

A record is its announcer's: the channel proved his peer id, and he may only name ports at the address he is seen at,
so he can point nobody at a third party; relays are named in full, and few. Tables are bounded, and when one is full the
network that fills most of it loses its oldest record: a flood from one place displaces itself, whatever ids it takes.
The same care when telling: of each network one, then a second of each, so that an honest record among many false ones
is told. Pure; the clock is an argument.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from dataclasses import dataclass
from itertools import zip_longest

from hyperlog.ids import DiscoveryKey
from swarm.addresses import PeerAddress, PeerId
from swarm.discovery.limits import (
    PROVIDERS_TOLD_MAX,
    RECORD_SECONDS_MAX,
    RECORDS_MAX,
    RECORDS_PER_KEY_MAX,
    RECORDS_PER_PEER_MAX,
)
from swarm.discovery.scope import IpAddress, group_of, may_pass


@dataclass(frozen=True, slots=True)
class Record:
    """One provider of one key; `group` is the network it was announced from."""

    addresses: tuple[PeerAddress, ...]
    group: str
    until: float


class Records:
    """Provider records by key, oldest announcement first."""

    def __init__(self, chance: random.Random) -> None:
        self._keys: dict[DiscoveryKey, OrderedDict[PeerId, Record]] = {}
        self._groups: dict[str, OrderedDict[tuple[DiscoveryKey, PeerId], None]] = {}
        self._peers: Counter[PeerId] = Counter()
        self._count = 0
        self._chance = chance

    def __len__(self) -> int:
        return self._count

    def add(
        self, key: DiscoveryKey, addresses: tuple[PeerAddress, ...], seen_at: IpAddress, seconds: float, now: float
    ) -> bool:
        """Keep that the peer of `addresses` serves `key`; whether there is room for it."""
        peer = addresses[0].peer
        self._remove(key, peer)
        if self._peers[peer] >= RECORDS_PER_PEER_MAX:
            return False
        record = Record(addresses, group_of(seen_at), now + min(seconds, RECORD_SECONDS_MAX))
        if len(self._keys.get(key, ())) >= RECORDS_PER_KEY_MAX:
            self._make_room_for(key)
        if self._count >= RECORDS_MAX:
            self._make_room()
        self._keys.setdefault(key, OrderedDict())[peer] = record
        self._groups.setdefault(record.group, OrderedDict())[key, peer] = None
        self._peers[peer] += 1
        self._count += 1
        return True

    def of(self, key: DiscoveryKey, asker: PeerId, seen_at: IpAddress, now: float) -> list[tuple[PeerAddress, ...]]:
        """Some providers of `key` that the asker, seen at this address, may be told."""
        self._expire_key(key, now)
        by_group: dict[str, list[tuple[PeerAddress, ...]]] = {}
        for peer, record in self._keys.get(key, {}).items():
            told = tuple(address for address in record.addresses if may_pass(address, seen_at))
            if told and peer != asker:
                by_group.setdefault(record.group, []).append(told)
        groups = list(by_group.values())
        self._chance.shuffle(groups)
        for group in groups:
            self._chance.shuffle(group)
        in_turn = [told for one_of_each in zip_longest(*groups) for told in one_of_each if told is not None]
        return in_turn[:PROVIDERS_TOLD_MAX]

    def expire(self, now: float) -> None:
        """Forget what is over."""
        for key in list(self._keys):
            self._expire_key(key, now)

    def _expire_key(self, key: DiscoveryKey, now: float) -> None:
        over = [peer for peer, record in self._keys.get(key, {}).items() if record.until <= now]
        for peer in over:
            self._remove(key, peer)

    def _make_room_for(self, key: DiscoveryKey) -> None:
        records = self._keys[key]
        ((largest, _),) = Counter(record.group for record in records.values()).most_common(1)
        self._remove(key, next(peer for peer, record in records.items() if record.group == largest))

    def _make_room(self) -> None:
        largest = max(self._groups.values(), key=len)
        self._remove(*next(iter(largest)))

    def _remove(self, key: DiscoveryKey, peer: PeerId) -> None:
        records = self._keys.get(key)
        record = None if records is None else records.pop(peer, None)
        if records is None or record is None:
            return
        if not records:
            del self._keys[key]
        group = self._groups[record.group]
        del group[key, peer]
        if not group:
            del self._groups[record.group]
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]
        self._count -= 1
