"""The states of a session, and which messages may come in which. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from swarm.discovery.peer_lists import Peers
from swarm.replication.messages import (
    Absent,
    Block,
    Bye,
    Cancel,
    Challenge,
    Exchange,
    Hello,
    Message,
    Ping,
    Pong,
    Proof,
    Request,
)
from swarm.replication.table_messages import Gained, Have, Hurry, KnowTable, Run


class State(StrEnum):
    HELLO_AWAITED = "waiting for a hello"
    CHALLENGE_AWAITED = "waiting for a challenge"
    PROOF_AWAITED = "waiting for a proof"
    OPEN = "open"
    CLOSED = "closed"


_OPEN_MESSAGES: Final = (
    *(Ping, Pong, Exchange, Bye),
    *(Request, Run, Hurry, Cancel, Block, Absent),
    *(KnowTable, Have, Gained, Peers),
)
MAY_COME: Final[Mapping[State, tuple[type[Message], ...]]] = {
    State.HELLO_AWAITED: (Hello,),
    State.CHALLENGE_AWAITED: (Challenge, Bye),
    State.PROOF_AWAITED: (Proof, Bye),
    State.OPEN: _OPEN_MESSAGES,
    State.CLOSED: (),
}
