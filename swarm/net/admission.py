"""Which inbound connections are let in, and which make room for others. Pure counting; the clock is an argument.

A connection is first a *handshake*, then a *stranger*, and a *member* once it has shown that it knows a log (`vouch`).
Nobody is kept out by somebody who merely sits there: where room runs out, the newcomer takes the place of the oldest
connection of whichever address holds most, handshakes for handshakes and strangers before members (faults N6: 300 idle
sockets closed a stock host to everybody). So one address full of idle sockets crowds out nobody but itself.

What an address starts is paid from its allowance, which refills with time; handshakes that fail cost more. Many honest
peers may share an address behind a NAT, so an address is only slowed down, and forgiven within seconds, never banned.
An IPv6 host owns a /64, so that is what counts as one address there.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

from swarm.limits import (
    ADDRESSES_REMEMBERED_MAX,
    CONNECTIONS_MAX,
    CONNECTIONS_PER_ADDRESS_MAX,
    HANDSHAKE_FAILED_COST,
    HANDSHAKES_PER_ADDRESS_BURST,
    HANDSHAKES_PER_ADDRESS_PER_SECOND,
    UPGRADES_MAX,
    UPGRADES_PER_ADDRESS_MAX,
)


class Stage(IntEnum):
    HANDSHAKE = 0
    STRANGER = 1
    MEMBER = 2


@dataclass(eq=False, slots=True)
class Slot:
    """One connection from accept to close. `evict` must end it soon; `end` follows."""

    address: str
    evict: Callable[[], None]
    stage: Stage = Stage.HANDSHAKE


class Admission:
    """Inbound connections from accept to close, `connections_max` of them at a time after their handshake."""

    def __init__(self, connections_max: int = CONNECTIONS_MAX) -> None:
        self._connections_max = connections_max
        self._slots: dict[Stage, OrderedDict[Slot, None]] = {stage: OrderedDict() for stage in Stage}
        self._held: dict[Stage, Counter[str]] = {stage: Counter() for stage in Stage}
        self._allowances: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.refused_rate = 0
        self.refused_full = 0
        self.evicted = 0
        self.failed = 0
        """Handshakes."""

    def begin(self, host: str, evict: Callable[[], None], now: float) -> Slot | None:
        """A slot for a connection of this IP address, or None: close it. `end` must follow a slot."""
        address = address_group(host)
        if not self._pay(address, 1, now):
            self.refused_rate += 1
            return None
        held = self._held[Stage.HANDSHAKE]
        if held[address] >= UPGRADES_PER_ADDRESS_MAX:
            self._evict(Stage.HANDSHAKE, address)
        elif held.total() >= UPGRADES_MAX:
            self._evict(Stage.HANDSHAKE, _heaviest(held))
        slot = Slot(address, evict)
        self._put(slot)
        return slot

    def establish(self, slot: Slot) -> bool:
        """The handshake is done; whether there is a place for the connection."""
        if slot not in self._slots[Stage.HANDSHAKE]:
            return False  # it was evicted meanwhile
        strangers, members = self._held[Stage.STRANGER], self._held[Stage.MEMBER]
        address = slot.address
        if strangers[address] + members[address] >= CONNECTIONS_PER_ADDRESS_MAX:
            is_room = self._evict(Stage.STRANGER, address)
        elif strangers.total() + members.total() < self._connections_max:
            is_room = True
        elif strangers:
            is_room = self._evict(Stage.STRANGER, _heaviest(strangers))
        else:
            heaviest = _heaviest(members)
            is_room = members[heaviest] > members[address] + 1 and self._evict(Stage.MEMBER, heaviest)
        if not is_room:
            self.refused_full += 1
            return False
        self._move(slot, Stage.STRANGER)
        return True

    def vouch(self, slot: Slot) -> None:
        """The peer has shown that it knows a log."""
        if slot in self._slots[Stage.STRANGER]:
            self._move(slot, Stage.MEMBER)

    def end(self, slot: Slot, now: float) -> None:
        """The connection is closed. One that did not get beyond its handshake costs its address more than others."""
        if slot.stage is Stage.HANDSHAKE:
            self.failed += 1
            self._pay(slot.address, HANDSHAKE_FAILED_COST, now)
        self._take(slot)

    def count(self, stage: Stage) -> int:
        return len(self._slots[stage])

    # ------------------------------------------------------------------------------------------------------ inside

    def _pay(self, address: str, cost: float, now: float) -> bool:
        """Take `cost` from the address' allowance; False, and nothing is taken, when it has run out."""
        allowance, at = self._allowances.pop(address, (HANDSHAKES_PER_ADDRESS_BURST, now))
        allowance = min(allowance + (now - at) * HANDSHAKES_PER_ADDRESS_PER_SECOND, HANDSHAKES_PER_ADDRESS_BURST)
        is_enough = allowance >= 1
        self._allowances[address] = (max(allowance - cost, 0) if is_enough else allowance, now)
        while len(self._allowances) > ADDRESSES_REMEMBERED_MAX:
            self._allowances.popitem(last=False)
        return is_enough

    def _evict(self, stage: Stage, address: str) -> bool:
        """End the oldest connection of `address` in this stage; False when it has none."""
        slot = _oldest(self._slots[stage], address)
        if slot is None:
            return False
        self._take(slot)
        self.evicted += 1
        slot.evict()
        return True

    def _move(self, slot: Slot, stage: Stage) -> None:
        self._take(slot)
        slot.stage = stage
        self._put(slot)

    def _put(self, slot: Slot) -> None:
        self._slots[slot.stage][slot] = None
        self._held[slot.stage][slot.address] += 1

    def _take(self, slot: Slot) -> None:
        if slot in self._slots[slot.stage]:
            del self._slots[slot.stage][slot]
            held = self._held[slot.stage]
            held[slot.address] -= 1
            if not held[slot.address]:
                del held[slot.address]


def address_group(host: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if ip.version == 4:
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))


def _heaviest(held: Counter[str]) -> str:
    return max(held, key=held.__getitem__)


def _oldest(slots: Iterable[Slot], address: str) -> Slot | None:
    return next((slot for slot in slots if slot.address == address), None)
