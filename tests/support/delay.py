"""A wire with a delay: a TCP relay that passes everything on, each way so much later. The kernel here has no netem.

    python -m tests.support.delay ADDRESS MILLISECONDS TARGET_PORT…

Listens on ADDRESS, one port for each TARGET_PORT of the same address, and prints the ports it listens on. What comes
in is held back for half of MILLISECONDS, and so is what goes out: a question and its answer take that much longer,
however much is under way.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial

import trio

from tests.support.netns import Namespace
from tests.support.sources import TOP

_CHUNK_BYTES = 256 << 10
_HELD_CHUNKS = 256


async def _relay(address: str, seconds: float, target: int, stream: trio.SocketStream) -> None:
    with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        async with stream, await trio.open_tcp_stream(address, target) as other, trio.open_nursery() as nursery:

            async def both() -> None:
                async with trio.open_nursery() as ways:
                    ways.start_soon(_one_way, stream, other, seconds)
                    ways.start_soon(_one_way, other, stream, seconds)
                nursery.cancel_scope.cancel()

            nursery.start_soon(both)


async def _one_way(source: trio.SocketStream, target: trio.SocketStream, seconds: float) -> None:
    sender, receiver = trio.open_memory_channel[tuple[float, bytes]](_HELD_CHUNKS)

    async def take() -> None:
        async with sender:
            with contextlib.suppress(trio.BrokenResourceError):
                while chunk := await source.receive_some(_CHUNK_BYTES):
                    await sender.send((trio.current_time() + seconds, bytes(chunk)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        async with receiver:
            try:
                async for due, chunk in receiver:
                    await trio.sleep_until(due)
                    await target.send_all(chunk)
                await target.send_eof()
            except (trio.BrokenResourceError, OSError):
                nursery.cancel_scope.cancel()


async def _serve(address: str, seconds: float, targets: Sequence[int]) -> None:
    async with trio.open_nursery() as nursery:
        ports = []
        for target in targets:
            (listener,) = await trio.open_tcp_listeners(0, host=address)
            ports.append(listener.socket.getsockname()[1])
            nursery.start_soon(trio.serve_listeners, partial(_relay, address, seconds, target), [listener])
        sys.stdout.write(" ".join(map(str, ports)) + "\n")
        sys.stdout.flush()


@contextlib.contextmanager
def delayed(host: Namespace, milliseconds: float, targets: Sequence[int]) -> Iterator[list[int]]:
    """Ports of `host` behind which the `targets` of the same host answer `milliseconds` later than they would."""
    argv = [*host.enter, sys.executable, "-m", "tests.support.delay", host.address, str(milliseconds)]
    with subprocess.Popen([*argv, *map(str, targets)], cwd=TOP, text=True, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            ports = [int(word) for word in process.stdout.readline().split()]
            assert len(ports) == len(targets), "the relay did not start"
            yield ports
        finally:
            process.terminate()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        trio.run(_serve, sys.argv[1], float(sys.argv[2]) / 2000, [int(word) for word in sys.argv[3:]])
