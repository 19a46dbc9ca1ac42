"""A line to a guest over virtio-vsock, as Firecracker and Cloud Hypervisor give it to the host: a Unix socket.

Whoever connects says `CONNECT PORT\\n` and is answered `OK NUMBER\\n`, or hung up on when nobody listens there; what
follows is the guest's and ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from vmhost.agent import limits


@dataclass(frozen=True, slots=True)
class VsockAddress:
    """A `port` in the guest, behind the hypervisor's socket at `path`."""

    path: str
    port: int


async def connect_vsock(address: VsockAddress) -> trio.SocketStream:
    """Raises ConnectionRefusedError while nobody listens in the guest, OSError where there is no such socket."""
    stream = await trio.open_unix_socket(address.path)
    try:
        await stream.send_all(b"CONNECT %d\n" % address.port)
        answer = bytearray()
        # A byte at a time: what comes after the line is not for us.
        while not answer.endswith(b"\n") and len(answer) < limits.VSOCK_ANSWER_BYTES:
            if not (byte := await stream.receive_some(1)):
                break
            answer += byte
    except trio.BrokenResourceError:
        answer = bytearray()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    if answer.startswith(b"OK ") and answer.endswith(b"\n"):
        return stream
    await trio.aclose_forcefully(stream)
    raise ConnectionRefusedError(f"nobody listens on port {address.port} of the guest")
