"""The bytes that docs/WIRE.md promises: what another implementation would check itself against."""

from __future__ import annotations

from collections.abc import Callable

from hyperlog.ids import BlockId, DiscoveryKey, LogKey, WriterKey, discovery_key
from hyperlog.lanes import Lane
from hyperlog.log import Logs
from hyperlog.replication import Replication
from hyperlog.run import encode_run
from swarm.addresses import PeerId, parse_address
from swarm.discovery import messages as find
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
    Reason,
    Request,
    Wanted,
    Why,
    encode_message,
)
from swarm.replication.session import Session
from swarm.replication.table_messages import Gained, Have, Hurry, KnowTable, Run
from swarm.replication.tables import TableId

KEY = LogKey(bytes(range(32)))
DISCOVERY = "e84f779b806f3eaaa35f1919cd6eebc84399e2a536e819991db2ea5d3a042e62"
INITIATOR_TAG = "1af5404a68dc7ec689814bf6f66b1d36bb63bd9144af7e37640479fbf9246d76"
RESPONDER_TAG = "2f76dc16b1962093c3b42eedd7829697563cb466a84cfd73adc39921dcf89679"
ONES, TWOS = "01" * 32, "02" * 32
ADDRESS = parse_address("/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
PEER_ITEM = f"82 7834{ADDRESS.peer.encode().hex()} 81772f6970342f3139322e302e322e372f7463702f34303031"
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
        f"0000002302815820{TWOS}",
        f"000000460183015820{DISCOVERY}5820{ONES}0000002303815820{INITIATOR_TAG}",
        f"0000002303815820{RESPONDER_TAG}",
    ]


def test_every_message() -> None:
    block = BlockId(bytes.fromhex(TWOS))
    examples: list[tuple[Message, str]] = [
        (Hello(1, discovery_key(KEY), b"\1" * 32), f"00000046 01 83015820{DISCOVERY}5820{ONES}"),
        (Challenge(b"\2" * 32), f"00000023 02 815820{TWOS}"),
        (Proof(b"\2" * 32), f"00000023 03 815820{TWOS}"),
        (Bye(Reason.REFUSED), "00000002 04 8104"),
        (Ping(1000), "00000004 05 811903e8"),
        (Pong(0), "00000002 06 8100"),
        (Exchange(b"\xaa\xbb"), "00000002 12 aabb"),
        (Request((Wanted(1, block, 65536),)), f"00000029 20 00 00000001{TWOS}00010000"),
        (Request((Wanted(1, block, 9, Lane.BACKGROUND, True),)), f"00000029 20 82 00000001{TWOS}00000009"),
        (Cancel((1, 2)), "00000008 21 0000000100000002"),
        (Block(1, b"\xbb"), "00000005 22 00000001bb"),
        (Absent(((1, Why.NOT_HELD), (2, Why.CANCELLED))), "0000000a 23 00000001000000000203"),
        (KnowTable(TableId(block), 3640), f"00000024 24 {TWOS} 00000e38"),
        (Have(0, 8, b"\x80"), "00000006 25 00 00000008 80"),
        (Gained(1, (7, 2)), "00000009 26 01 00000007 00000002"),
        (Run(Lane.PREFETCH, True, 0, ((4, 100, 16),)), "0000000c 27 81 00 00000004 00000064 0010"),
        (Hurry(Lane.MISS, (4,)), "00000005 28 00 00000004"),
        (Peers((4001,), ((ADDRESS,),)), f"00000056 40 82 81190fa1 81 {PEER_ITEM}"),
    ]
    assert [encode_message(message).hex() for message, _ in examples] == [text.replace(" ", "") for _, text in examples]


def test_every_message_about_finding_peers() -> None:
    key = DiscoveryKey(bytes.fromhex(ONES))
    examples: list[tuple[find.Message, str]] = [
        (find.Announce(600, (4001,), (), (key,)), f"0000002c 01 84 190258 81190fa1 80 815820{ONES}"),
        (find.Announced(600, "192.0.2.7"), "0000000e 02 82 190258 693139322e302e322e37"),
        (find.Find(key, 4001), f"00000026 03 82 5820{ONES} 190fa1"),
        (find.Found(True, ((ADDRESS,),), ()), f"00000054 04 83 f5 81 {PEER_ITEM} 80"),
        (find.Busy(), "00000001 05 80"),
    ]
    assert [find.encode_message(message).hex() for message, _ in examples] == [
        text.replace(" ", "") for _, text in examples
    ]


def test_an_exchange_about_three_entries(make_logs: Callable[..., Logs]) -> None:
    log = make_logs().create("image")
    log.append_many([b"0", b"1", b"2"])
    writer = WriterKey(log.key)
    feeds = f"8183 5820{writer.hex()} 03 5820{log.id_at(writer, 2).hex()}"
    run = encode_run(log.run(writer, 0))
    reader = Replication(make_logs().add_remote(log.key), live=True)
    ends = {"<": Replication(log, live=True), ">": reader}
    said = []
    while frames := [(side, frame) for side, end in ends.items() if (frame := end.next_frame()) is not None]:
        for side, frame in frames:
            said.append(f"{side} {encode_message(Exchange(frame))[4:].hex()}")
            ends["<" if side == ">" else ">"].receive(frame)
    assert reader.is_done
    assert said == [
        line.replace(" ", "").replace("<", "< ").replace(">", "> ")
        for line in (
            "< 12 01 84 01 f5 f5 f5",
            "> 12 01 84 01 f5 f5 f5",
            f"< 12 02 83 f5 {feeds} 80",
            "> 12 02 83 f5 80 80",
            "< 12 0e 81 01",
            f"> 12 03 81 83 5820{writer.hex()} 00 03",
            f"< 12 04 {len(run):08x} {run.hex()}",
            "< 12 0d 81 01",
            f"> 12 02 83 f5 {feeds} 80",
            "< 12 0e 81 02",
            "> 12 0e 81 01",
        )
    ]
