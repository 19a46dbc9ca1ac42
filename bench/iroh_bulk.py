"""The two ends of bench/swarm.py, done by iroh 1.2 from PyPI: one QUIC stream, no relay, no discovery.

iroh's Python binding copies what is sent byte by byte in Python (1.7 MB/s); that one function is replaced here by a
memmove, so that iroh is compared and not its copying.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import struct
import sys
import time
from typing import Any, Final

import iroh
import iroh.iroh_ffi

from bench.bulk import ALPN, BLOCK_BYTES, Blocks, cpu_seconds, say
from hyperlog.hashing import blake3_256

_LENGTH: Final = struct.Struct(">I")


def _write(self: Any, value: bytes) -> None:
    with self._reserve(len(value)):
        target = ctypes.addressof(self.rbuf.data.contents) + self.rbuf.len
        ctypes.memmove(target, bytes(value), len(value))


iroh.iroh_ffi._UniffiRustBufferBuilder.write = _write  # noqa: SLF001


async def _endpoint(alpns: list[bytes]) -> Any:
    options = iroh.EndpointOptions(
        preset=iroh.preset_minimal(), relay_mode=iroh.RelayMode.disabled(), alpns=alpns, bind_addr="127.0.0.1:0"
    )
    return await iroh.Endpoint.bind(options)


async def serve(blocks: Blocks) -> None:
    endpoint = await _endpoint([ALPN])
    say({"id": str(endpoint.id()), "addresses": [str(one) for one in endpoint.bound_sockets()]})
    connection = await (await (await endpoint.accept_next()).accept()).connect()
    both = await connection.accept_bi()
    await both.recv().read_exact(1)
    sending = both.send()
    for number in range(blocks.count):
        await sending.write_all(_LENGTH.pack(BLOCK_BYTES) + blocks.payload(number))
    await asyncio.to_thread(sys.stdin.read)


async def fetch(blocks: Blocks, server: dict[str, Any]) -> None:
    ids = blocks.ids()
    endpoint = await _endpoint([])
    address = iroh.EndpointAddr(iroh.EndpointId.from_string(server["id"]), None, server["addresses"])
    both = await (await endpoint.connect(address, ALPN)).open_bi()
    receiving = both.recv()
    used, start = cpu_seconds(), time.perf_counter()
    await both.send().write_all(b"!")
    for block in ids:
        (length,) = _LENGTH.unpack(bytes(await receiving.read_exact(_LENGTH.size)))
        if blake3_256(bytes(await receiving.read_exact(length))) != block:
            raise SystemExit("a wrong block")
    say({"seconds": time.perf_counter() - start, "blocks": len(ids), "cpu": cpu_seconds() - used})


if __name__ == "__main__":
    content = Blocks(int(sys.argv[2]))
    asyncio.run(serve(content) if sys.argv[1] == "serve" else fetch(content, json.loads(sys.argv[3])))
