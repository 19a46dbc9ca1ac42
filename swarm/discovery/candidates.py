"""Addresses of one log's peers that somebody named, and whom to try next. Pure; the clock is an argument.

Nothing is believed of them. Those who named them take turns, so that one who names a hundred false addresses delays
one who names a single true one by a turn; an address that failed waits, longer each time, and is forgotten; an IP
address at which many dials failed is left alone for a minute, so that nobody can turn us on a third party (N15).
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import StrEnum

from swarm.addresses import PeerAddress, PeerId
from swarm.discovery.limits import (
    CANDIDATES_MAX,
    CANDIDATES_PER_TELLER_MAX,
    HOST_FAILURES_MAX,
    HOST_FAILURES_SECONDS,
    PACED_GROUPS_MAX,
    TRIAL_FAILURES_MAX,
    TRIAL_RETRY_SECONDS,
    TRIAL_RETRY_SECONDS_MAX,
    TRIAL_WANTED_SECONDS,
)
from swarm.discovery.scope import host_of


class Origin(StrEnum):
    """How we came to know where a peer is."""

    NAMED = "named"
    """By a person: in a link, with --peer."""
    NEIGHBOUR = "mdns"
    REMEMBERED = "remembered"
    RENDEZVOUS = "rendezvous"
    DHT = "dht"
    EXCHANGE = "exchange"


class HostGuard:
    """Counts failed dials by IP address, for all logs. A dial that works forgives."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def is_spared(self, address: PeerAddress, now: float) -> bool:
        """Whether nothing at this host is to be dialled now."""
        count, since = self._failures.get(_host(address), (0, now))
        return count >= HOST_FAILURES_MAX and now - since < HOST_FAILURES_SECONDS

    def note(self, address: PeerAddress, now: float, *, worked: bool) -> None:
        """A dial ended."""
        host = _host(address)
        count, since = self._failures.pop(host, (0, now))
        if worked:
            return
        if now - since >= HOST_FAILURES_SECONDS:
            count, since = 0, now
        self._failures[host] = (count + 1, since)
        if len(self._failures) > PACED_GROUPS_MAX:
            self._failures.popitem(last=False)


@dataclass(eq=False, slots=True)
class Candidate:
    address: PeerAddress
    origin: Origin
    teller: str
    due: float
    failures: int = 0
    tried_at: float = -math.inf
    is_proven: bool = False
    """A session was open there once, in this run or an earlier one: worth trying again for as long as we run."""
    is_out: bool = False
    """It is being tried, or a session with it is open."""


class Candidates:
    """Of one log. `guard` is shared by all logs."""

    def __init__(self, guard: HostGuard) -> None:
        self._guard = guard
        self._known: dict[str, Candidate] = {}
        self._turns: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def all(self) -> list[Candidate]:
        return list(self._known.values())

    def add(self, address: PeerAddress, origin: Origin, teller: str, now: float) -> bool:
        """Somebody (`teller`) named an address; whether it is news that was kept."""
        if address.text in self._known:
            return False
        of_teller = [one for one in self._known.values() if one.teller == teller]
        if len(of_teller) >= CANDIDATES_PER_TELLER_MAX and not self._drop_one(of_teller):
            return False
        if len(self._known) >= CANDIDATES_MAX and not self._make_room(teller):
            return False
        is_proven = origin is Origin.REMEMBERED
        self._known[address.text] = Candidate(address, origin, teller, now, is_proven=is_proven)
        return True

    def take(self, now: float, unwanted: frozenset[PeerId]) -> Candidate | None:
        """The next one to try, unless it is of an unwanted peer (one that we have a session with). `settle` it."""
        best: Candidate | None = None
        for one in self._known.values():
            if (
                not one.is_out
                and one.due <= now
                and one.address.peer not in unwanted
                and (best is None or self._rank(one) < self._rank(best))
                and (one.is_proven or not self._guard.is_spared(one.address, now))
            ):
                best = one
        if best is not None:
            best.is_out = True
            best.tried_at = now
            self._turns[best.teller] += 1
        return best

    def settle(self, one: Candidate, now: float, *, worked: bool) -> None:
        """The trial is over: `worked` if a session was open."""
        one.is_out = False
        one.is_proven |= worked
        one.failures = 0 if worked else one.failures + 1
        if one.failures >= TRIAL_FAILURES_MAX and not one.is_proven:
            self._known.pop(one.address.text, None)
        else:
            one.due = now + min(TRIAL_RETRY_SECONDS * 4.0 ** (min(one.failures, 5) - 1), TRIAL_RETRY_SECONDS_MAX)

    def hurry(self, now: float) -> None:
        """Somebody waits for the log and it has no peer: what worked once may be tried again soon."""
        for one in self._known.values():
            if not one.failures or one.is_proven:
                one.due = min(one.due, max(now, one.tried_at + TRIAL_WANTED_SECONDS))

    def next_due(self, now: float) -> float | None:
        """When something may be taken next; None: not before something is added or settled."""
        times = [one.due for one in self._known.values() if not one.is_out]
        if not times:
            return None
        # What is due and not taken is unwanted or spared for now: looked at again in a while.
        return min(time if time > now else now + TRIAL_RETRY_SECONDS for time in times)

    def _rank(self, one: Candidate) -> tuple[int, int]:
        return one.failures, self._turns[one.teller]

    def _drop_one(self, among: list[Candidate]) -> bool:
        """Drop the one that failed most, the oldest of those; False if none can be."""
        idle = [one for one in among if not (one.is_out or one.is_proven)]
        if idle:
            worst = max(idle, key=lambda one: one.failures)
            del self._known[worst.address.text]
        return bool(idle)

    def _make_room(self, teller: str) -> bool:
        """Whoever named most loses one, unless that is the newcomer's own teller."""
        ((largest, _),) = Counter(one.teller for one in self._known.values()).most_common(1)
        return largest != teller and self._drop_one([one for one in self._known.values() if one.teller == largest])


def _host(address: PeerAddress) -> str:
    host = host_of(address.text)
    return address.text if host is None else str(host)
