"""The two ends of bench/swarm.py in Python: ours, stock py-libp2p, its Bitswap, and frames on a bare trio socket.

bulk.py serve WAY BLOCKS        prints how to reach it, serves until stdin ends
bulk.py fetch WAY BLOCKS HOW    prints the seconds it took, and for ours the latency of single requests
"""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import multiaddr
import trio
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from libp2p import create_yamux_muxer_option, generate_new_ed25519_identity, new_host
from libp2p.bitswap import BitswapClient, MemoryBlockStore, compute_cid_v1_obj
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport

from hyperlog.hashing import blake3_256
from hyperlog.ids import ID_BYTES, BlockId, LogKey, block_id
from swarm.swarm import Swarm, SwarmConfig
from tests.swarm.support import memory_logs

ALPN: Final = b"bench/1"
BLOCK_BYTES: Final = 65536
_KEY: Final = LogKey(b"k" * 32)
_LISTEN: Final = "/ip4/127.0.0.1/tcp/0"
_PROTOCOL: Final = TProtocol("/bench/1")
_LENGTH: Final = struct.Struct(">I")
_SINGLES: Final = 500
_PARALLEL: Final = 64
_nonce: Final = struct.Struct("<xxxxQ").pack


class Blocks:
    """`count` different blocks, the same in every process, made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._rest = random.Random(5).randbytes(BLOCK_BYTES - 8)
        self._numbers: dict[BlockId, int] = {}

    def payload(self, number: int) -> bytes:
        return number.to_bytes(8, "big") + self._rest

    def ids(self) -> list[BlockId]:
        return [block_id(self.payload(number)) for number in range(self.count)]

    def get(self, block: BlockId, /) -> bytes:
        """As `swarm.block_server.BlockBook`."""
        if not self._numbers:
            self._numbers = {one: number for number, one in enumerate(self.ids())}
        return self.payload(self._numbers[block])

    get_cached = get
    """They are in memory, as what a seeder was asked for before."""

    def has(self, block: BlockId, /) -> bool:
        return block in self._numbers


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _until_told() -> None:
    await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


# ----------------------------------------------------------------------------------------------------------------- ours


def _swarm(blocks: Blocks) -> Swarm:
    return Swarm(memory_logs(), blocks, SwarmConfig(identity_seed=os.urandom(32), listen=(_LISTEN,), mdns=False))


async def serve_ours(blocks: Blocks) -> None:
    blocks.get(block_id(blocks.payload(0)))
    swarm = _swarm(blocks)
    swarm.join(_KEY)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(swarm.run)
        say({"address": address})
        await _until_told()
        nursery.cancel_scope.cancel()


async def fetch_ours(blocks: Blocks, server: dict[str, Any]) -> None:
    ids = blocks.ids()
    swarm = _swarm(Blocks(0))
    swarm.join(_KEY, [server["address"]])
    source = swarm.source(_KEY)
    got = 0

    async def work(rest: Iterator[BlockId]) -> None:
        nonlocal got
        for block in rest:
            payload = await source.get(block, BLOCK_BYTES)
            got += len(payload)

    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        await source.get(ids[0], BLOCK_BYTES)
        singles = []
        for number in range(_SINGLES):
            start = time.perf_counter()
            await source.get(ids[number % len(ids)], BLOCK_BYTES)
            singles.append((time.perf_counter() - start) * 1000)
        used, start = cpu_seconds(), time.perf_counter()
        async with trio.open_nursery() as workers:
            rest = iter(ids)
            for _ in range(_PARALLEL):
                workers.start_soon(work, rest)
        seconds = time.perf_counter() - start
        singles.sort()
        p50, p99 = singles[_SINGLES // 2], singles[_SINGLES * 99 // 100]
        done = {"seconds": seconds, "blocks": got // BLOCK_BYTES, "cpu": cpu_seconds() - used}
        say({**done, "request_p50_ms": p50, "request_p99_ms": p99})
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------------------------------ stock py-libp2p


def _host() -> Any:
    pair = generate_new_ed25519_identity()
    noise = Transport(pair, create_new_key_pair().private_key)
    return new_host(key_pair=pair, sec_opt={NOISE: noise}, muxer_opt=create_yamux_muxer_option())


async def _exactly(stream: Any, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = await stream.read(count - len(data))
        if not piece:
            raise SystemExit("the stream ended early")
        data += piece
    return bytes(data)


async def serve_stock(blocks: Blocks) -> None:
    host = _host()

    async def answer(stream: Any) -> None:
        while True:
            payload = blocks.get(BlockId(await _exactly(stream, ID_BYTES)))
            await stream.write(_LENGTH.pack(len(payload)) + payload)

    host.set_stream_handler(_PROTOCOL, answer)
    async with host.run(listen_addrs=[multiaddr.Multiaddr(_LISTEN)]):
        say({"address": str(host.get_addrs()[0])})
        await _until_told()
        os._exit(0)  # closing a stock host takes seconds and proves nothing here


async def fetch_stock(blocks: Blocks, server: dict[str, Any]) -> None:
    ids = blocks.ids()
    host = _host()
    info = info_from_p2p_addr(multiaddr.Multiaddr(server["address"]))
    async with host.run(listen_addrs=[]):
        await host.connect(info)
        stream = await host.new_stream(info.peer_id, [_PROTOCOL])
        used, start = cpu_seconds(), time.perf_counter()
        for number, block in enumerate(ids):
            if number % (_PARALLEL // 2) == 0:  # half a window of requests at a time: what costs the stock side least
                await stream.write(b"".join(ids[number and number + _PARALLEL // 2 : number + _PARALLEL]))
            (length,) = _LENGTH.unpack(await _exactly(stream, _LENGTH.size))
            _check(await _exactly(stream, length), block)
        say({"seconds": time.perf_counter() - start, "blocks": len(ids), "cpu": cpu_seconds() - used})
        os._exit(0)


async def serve_bitswap(blocks: Blocks) -> None:
    host = _host()
    store = MemoryBlockStore()
    for number in range(blocks.count):
        await store.put_block(compute_cid_v1_obj(blocks.payload(number)), blocks.payload(number))
    bitswap = BitswapClient(host, store)
    async with host.run(listen_addrs=[multiaddr.Multiaddr(_LISTEN)]), trio.open_nursery() as nursery:
        bitswap.set_nursery(nursery)
        await bitswap.start()
        say({"address": str(host.get_addrs()[0])})
        await _until_told()
        os._exit(0)


async def fetch_bitswap(blocks: Blocks, server: dict[str, Any]) -> None:
    cids = [compute_cid_v1_obj(blocks.payload(number)) for number in range(blocks.count)]
    host = _host()
    bitswap = BitswapClient(host, MemoryBlockStore())
    info = info_from_p2p_addr(multiaddr.Multiaddr(server["address"]))
    async with host.run(listen_addrs=[]), trio.open_nursery() as nursery:
        bitswap.set_nursery(nursery)
        await bitswap.start()
        await host.connect(info)
        used, start = cpu_seconds(), time.perf_counter()
        got = await bitswap.new_session().get_blocks_batch(cids, info.peer_id, batch_size=_PARALLEL)
        say({"seconds": time.perf_counter() - start, "blocks": len(got), "cpu": cpu_seconds() - used})
        os._exit(0)


def _check(payload: bytes | bytearray | memoryview, block: BlockId) -> None:
    if blake3_256(payload) != block:
        raise SystemExit("a wrong block")


# ------------------------------------------------------------------------------------ encrypted frames, nothing besides


async def serve_raw(blocks: Blocks) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    say({"port": listeners[0].socket.getsockname()[1]})
    stream = await listeners[0].accept()
    cipher = ChaCha20Poly1305(b"k" * 32)
    await stream.receive_some(1)
    frames = []
    for number in range(blocks.count):
        body = cipher.encrypt(_nonce(number), blocks.payload(number), None)
        frames += [_LENGTH.pack(len(body)), body]
        if len(frames) == 8:
            await stream.send_all(b"".join(frames))
            frames.clear()
    await stream.send_all(b"".join(frames))
    await _until_told()


async def fetch_raw(blocks: Blocks, server: dict[str, Any]) -> None:
    ids = blocks.ids()
    stream = await trio.open_tcp_stream("127.0.0.1", server["port"])
    cipher = ChaCha20Poly1305(b"k" * 32)
    used, start = cpu_seconds(), time.perf_counter()
    await stream.send_all(b"!")
    buffer, done = bytearray(), 0
    while done < len(ids):
        buffer += await stream.receive_some(1 << 20)
        at = 0
        with memoryview(buffer) as view:
            while len(view) - at >= _LENGTH.size:
                end = at + _LENGTH.size + _LENGTH.unpack_from(view, at)[0]
                if end > len(view):
                    break
                _check(cipher.decrypt(_nonce(done), view[at + _LENGTH.size : end], None), ids[done])
                done, at = done + 1, end
        del buffer[:at]
    say({"seconds": time.perf_counter() - start, "blocks": done, "cpu": cpu_seconds() - used})


_WAYS: Final = {
    "ours": (serve_ours, fetch_ours),
    "py_libp2p": (serve_stock, fetch_stock),
    "bitswap": (serve_bitswap, fetch_bitswap),
    "raw_aead": (serve_raw, fetch_raw),
}

if __name__ == "__main__":
    serve, fetch = _WAYS[sys.argv[2]]
    content = Blocks(int(sys.argv[3]))
    if sys.argv[1] == "serve":
        trio.run(serve, content)
    else:
        trio.run(fetch, content, json.loads(sys.argv[4]))
