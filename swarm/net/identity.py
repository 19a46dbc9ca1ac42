"""Our secret seed as a libp2p identity, and peer ids between their text and libp2p's own form."""

from __future__ import annotations

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.peer.id import ID

from swarm.addresses import PeerId

_SEED_BYTES = 32


def key_pair_from_seed(seed: bytes) -> KeyPair:
    """The Ed25519 pair that `seed` (32 bytes) determines."""
    assert len(seed) == _SEED_BYTES
    return create_new_key_pair(seed)


def peer_id_of(pair: KeyPair) -> PeerId:
    """The peer id in text form: base58 of the public key's multihash."""
    return peer_id_text(ID.from_pubkey(pair.public_key))


def peer_id_text(identity: ID) -> PeerId:
    return PeerId(identity.to_base58())


def libp2p_id(peer: PeerId) -> ID:
    """Raises `ValueError` for a text that names no peer."""
    return ID.from_base58(peer)
