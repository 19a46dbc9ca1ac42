"""What a seeder in a crowd sends to whom, and what it leaves to others."""

from __future__ import annotations

from hyperlog.ids import BlockId
from hyperlog.lanes import Lane
from swarm.limits import CROWD_SECONDS, GRANT_SECONDS, GRANTS_MAX
from swarm.replication.grants import Grants
from swarm.replication.messages import Wanted


def wanted(number: int, *, patient: bool = True) -> Wanted:
    return Wanted(0, BlockId(number.to_bytes(32, "big")), 1, Lane.BACKGROUND, patient)


def test_a_block_is_sent_once_while_a_crowd_waits() -> None:
    grants: Grants[str] = Grants()
    assert grants.may_serve("a", wanted(1), 0.0)
    assert not grants.may_serve("b", wanted(1), 0.1)
    assert grants.may_serve("b", wanted(2), 0.1)
    assert not grants.may_serve("a", wanted(2), 0.2)


def test_who_has_it_may_have_it_again_and_who_cannot_wait_gets_it() -> None:
    grants: Grants[str] = Grants()
    assert grants.may_serve("a", wanted(1), 0.0)
    assert grants.may_serve("a", wanted(1), 0.1)
    assert grants.may_serve("b", wanted(1, patient=False), 0.1)


def test_when_nobody_asks_for_anything_new_each_is_sent_once_more() -> None:
    grants: Grants[str] = Grants()
    assert grants.may_serve("a", wanted(1), 0.0)
    assert grants.may_serve("b", wanted(1), CROWD_SECONDS)
    assert not grants.may_serve("c", wanted(1), CROWD_SECONDS + 0.1)


def test_a_grantee_who_leaves_or_passes_nothing_on_starves_nobody() -> None:
    grants: Grants[str] = Grants()
    assert grants.may_serve("a", wanted(1), 0.0)
    grants.leave("a")
    assert grants.may_serve("b", wanted(1), 0.1)
    now = 0.1
    while now < GRANT_SECONDS:
        assert not grants.may_serve("c", wanted(1), now)
        now += CROWD_SECONDS / 2
        grants.may_serve("d", wanted(1000 + int(now * 10)), now)
    assert grants.may_serve("c", wanted(1), GRANT_SECONDS + 0.2)


def test_what_is_remembered_is_bounded() -> None:
    grants: Grants[str] = Grants()
    for number in range(GRANTS_MAX + 1):
        assert grants.may_serve("a", wanted(number), number / GRANTS_MAX / 2)
    assert grants.may_serve("b", wanted(0), 0.6)
    assert not grants.may_serve("b", wanted(GRANTS_MAX), 0.6)
