"""Who misbehaved, how much it weighs still, and who is banned until when. Pure; the clock is an argument.

A *lie* (bytes that no honest peer sends) bans at once: an honest peer verifies what it stores, so it sends no wrong
block. A *lapse* (slow, silent, does not read) may be anybody's bad line: it takes `LAPSES_MAX` of them within about
`FAULT_HALF_LIFE_SECONDS` to ban, for what a peer did weighs half as much after that time.

The first ban is short, each further one four times as long, up to a day; a peer that kept the peace for
`FORGIVEN_SECONDS` starts anew. Bans hold for a peer id, which costs nothing to make, so they only stop those who do
not bother; whoever makes new ids is held by what an address may do (net/admission.py). `dump` and `load` carry bans
over a restart, as seconds that remain, so that clocks that jump do not matter.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from hyperlog.encoding import Encodable, decode, encode
from hyperlog.errors import Corrupt
from swarm.addresses import PeerId
from swarm.limits import (
    BAN_SECONDS,
    BAN_SECONDS_MAX,
    BANS_KEPT_BYTES_MAX,
    BANS_KEPT_MAX,
    BANS_MAX,
    FAULT_HALF_LIFE_SECONDS,
    FORGIVEN_SECONDS,
    LAPSES_MAX,
)


@dataclass(eq=False, slots=True)
class _Account:
    weight: float = 0.0
    """Of what it did, as of `at`; 1 bans."""
    at: float = 0.0
    bans: int = 0
    until: float = 0.0


class Ledger:
    """Accounts of peers that did something wrong; the longest quiet are forgotten first."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[PeerId, _Account] = OrderedDict()
        self.bans_made = 0

    def lie(self, peer: PeerId, now: float) -> None:
        """The peer sent what no honest peer sends: it is banned."""
        self._charge(peer, 1, now)

    def lapse(self, peer: PeerId, now: float) -> bool:
        """The peer was slow, silent or deaf; whether it is banned for that, and was not before."""
        return self._charge(peer, 1 / LAPSES_MAX, now)

    def is_banned(self, peer: PeerId, now: float) -> bool:
        account = self._accounts.get(peer)
        return account is not None and now < account.until

    def count_banned(self, now: float) -> int:
        return sum(now < account.until for account in self._accounts.values())

    def _charge(self, peer: PeerId, weight: float, now: float) -> bool:
        account = self._accounts.setdefault(peer, _Account(at=now))
        self._accounts.move_to_end(peer)
        while len(self._accounts) > BANS_MAX:
            self._accounts.popitem(last=False)
        if now - max(account.at, account.until) > FORGIVEN_SECONDS:
            account.bans = 0
        account.weight = account.weight * 0.5 ** ((now - account.at) / FAULT_HALF_LIFE_SECONDS) + weight
        account.at = now
        # Sums of tenths are not exact.
        is_news = account.weight >= 1 - 1e-9 and now >= account.until
        if is_news:
            account.until = now + min(BAN_SECONDS * 4**account.bans, BAN_SECONDS_MAX)
            account.bans += 1
            self.bans_made += 1
            account.weight = 0.0
        return is_news

    # --------------------------------------------------------------------------------------------- over a restart

    def dump(self, now: float) -> bytes:
        """The latest `BANS_KEPT_MAX` peers that were ever banned: how often, and for how many seconds more."""
        kept: list[Encodable] = [
            [peer, account.bans, int(max(account.until - now, 0))]
            for peer, account in self._accounts.items()
            if account.bans
        ]
        return encode(kept[-BANS_KEPT_MAX:])

    def load(self, dumped: bytes, now: float) -> None:
        """Take over what `dump` gave, `now` being when it was given or later. What cannot be read is passed over."""
        try:
            rows = decode(dumped, bytes_max=BANS_KEPT_BYTES_MAX)
        except Corrupt:
            return
        for row in rows if isinstance(rows, list) else ():
            match row:
                case [str() as peer, int() as bans, int() as seconds] if bans > 0 <= seconds <= BAN_SECONDS_MAX:
                    self._accounts[PeerId(peer)] = _Account(at=now, bans=min(bans, 16), until=now + seconds)
