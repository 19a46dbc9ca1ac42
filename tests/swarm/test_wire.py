"""The bytes that docs/WIRE.md promises: what another implementation would check itself against."""

from __future__ import annotations

from hyperlog.ids import BlockId, LogKey, WriterKey, discovery_key
from swarm.addresses import PeerId
from swarm.replication.messages import (
    Absent,
    Block,
    Bye,
    Cancel,
    Challenge,
    Entries,
    Hello,
    Message,
    Ping,
    Pong,
    Proof,
    Reason,
    Request,
    Vector,
    Wanted,
    Why,
    encode_message,
)
from swarm.replication.session import Session

KEY = LogKey(bytes(range(32)))
DISCOVERY = "e84f779b806f3eaaa35f1919cd6eebc84399e2a536e819991db2ea5d3a042e62"
INITIATOR_TAG = "1af5404a68dc7ec689814bf6f66b1d36bb63bd9144af7e37640479fbf9246d76"
RESPONDER_TAG = "2f76dc16b1962093c3b42eedd7829697563cb466a84cfd73adc39921dcf89679"
ONES, TWOS = "01" * 32, "02" * 32
INITIATOR, RESPONDER = PeerId("12D3KooWA"), PeerId("12D3KooWB")


def test_the_handshake_of_two_known_peers() -> None:
    one = Session.initiate(KEY, local=INITIATOR, remote=RESPONDER, nonce=b"\1" * 32)
    other = Session.respond(
        {discovery_key(KEY): KEY}.get, local=RESPONDER, remote=INITIATOR, nonce=b"\2" * 32, decoy=bytes(32)
    )
    said = []
    while one.has_output or other.has_output:
        for speaker, listener in ((one, other), (other, one)):
            data = speaker.take_output()
            said += [data.hex()] if data else []
            listener.receive(data)
    assert said == [
        f"000000460183015820{DISCOVERY}5820{ONES}",
        f"0000002302815820{TWOS}",
        f"0000002303815820{INITIATOR_TAG}",
        f"0000002303815820{RESPONDER_TAG}",
    ]


def test_every_message() -> None:
    block, writer = BlockId(bytes.fromhex(TWOS)), WriterKey(bytes.fromhex(ONES))
    examples: list[tuple[Message, str]] = [
        (Hello(1, discovery_key(KEY), b"\1" * 32), f"00000046 01 83015820{DISCOVERY}5820{ONES}"),
        (Challenge(b"\2" * 32), f"00000023 02 815820{TWOS}"),
        (Proof(b"\2" * 32), f"00000023 03 815820{TWOS}"),
        (Bye(Reason.REFUSED), "00000002 04 8104"),
        (Ping(1000), "00000004 05 811903e8"),
        (Pong(0), "00000002 06 8100"),
        (Vector({writer: 3}, 7, 0), f"00000028 10 8381825820{ONES}030700"),
        (Vector({}, 0, 7), "00000004 10 83800007"),
        (Entries((b"\xaa", b"")), "00000004 11 8241aa40"),
        (Request((Wanted(1, block, 65536),)), f"00000028 20 00000001{TWOS}00010000"),
        (Cancel((1, 2)), "00000008 21 0000000100000002"),
        (Block(1, b"\xbb"), "00000005 22 00000001bb"),
        (Absent(((1, Why.NOT_HELD), (2, Why.CANCELLED))), "0000000a 23 00000001000000000203"),
    ]
    assert [encode_message(message).hex() for message, _ in examples] == [text.replace(" ", "") for _, text in examples]
