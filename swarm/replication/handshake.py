"""Proof that both ends know a log's key, bound to the connection it is given on.

    initiator                                   responder
                                             ◀── challenge(nonce r)       as soon as there is a stream
      hello(version, discovery key, nonce i) ──▶
      proof(tag i)                           ──▶
                                             ◀── proof(tag r) | bye       only now does the log show, or not

    tag = BLAKE3 keyed with the log key of canonical CBOR
          [domain, role, initiator's peer id, responder's peer id, discovery key, nonce i, nonce r]

Both peer ids were authenticated by the secure channel underneath, so a tag is worthless on any other pair of peers,
in the other direction, and (both nonces) at any other time. The responder answers an unknown log and a bad tag with
the same bytes and the same work: it checks against a random key when it does not know the log. The initiator, who
shows its tag first, gives it only to the peer it dialled, and a tag does not reveal the key.
"""

from __future__ import annotations

import hmac
from enum import StrEnum
from typing import Final

from hyperlog.encoding import encode
from hyperlog.hashing import keyed
from hyperlog.ids import DiscoveryKey, LogKey
from swarm.addresses import PeerId

_DOMAIN: Final = "hypernode capability v1"


class Role(StrEnum):
    INITIATOR = "initiator"
    RESPONDER = "responder"


def proof_tag(
    key: bytes,
    role: Role,
    *,
    initiator: PeerId,
    responder: PeerId,
    log: DiscoveryKey,
    initiator_nonce: bytes,
    responder_nonce: bytes,
) -> bytes:
    """The 32-byte tag by which the end in `role` shows that it knows `key`."""
    return keyed(key, encode([_DOMAIN, str(role), initiator, responder, log, initiator_nonce, responder_nonce]))


class Capability:
    """Both tags of one handshake, once both nonces are known. `key` None: an unknown log, no tag will fit."""

    def __init__(
        self,
        key: LogKey | None,
        log: DiscoveryKey,
        *,
        initiator: PeerId,
        responder: PeerId,
        initiator_nonce: bytes,
        responder_nonce: bytes,
        decoy: bytes,
    ) -> None:
        self._known = key is not None
        self._tags = {
            role: proof_tag(
                decoy if key is None else key,
                role,
                initiator=initiator,
                responder=responder,
                log=log,
                initiator_nonce=initiator_nonce,
                responder_nonce=responder_nonce,
            )
            for role in Role
        }

    def tag(self, role: Role) -> bytes:
        """What the end in `role` sends."""
        assert self._known
        return self._tags[role]

    def accepts(self, role: Role, tag: bytes) -> bool:
        """Whether `tag` is what the end in `role` must send; takes equally long for known and unknown logs."""
        return hmac.compare_digest(self._tags[role], tag) and self._known
