"""What a program of the guest's own says."""

from __future__ import annotations

from vmhost.agent.session import OutputStream
from vmhost.machines import limits


async def collect(output: OutputStream) -> bytes:
    """All of it, up to `limits.ANSWER_BYTES`."""
    data = bytearray()
    async for piece in output:
        data += piece
        if len(data) > limits.ANSWER_BYTES:
            break
    return bytes(data)
