"""The kernel out of Debian's package, in the form that QEMU starts most directly.

On amd64 that is the ELF file `vmlinux`, started through PVH: no real-mode stub, no decompression in the guest. It lies
compressed inside of the bzImage; where is said by the boot protocol's header
(linux/Documentation/arch/x86/boot.rst: setup_sects at 0x1f1, payload_offset and payload_length at 0x248), and the
payload ends with the length of what it unpacks to. On arm64 the package has the raw Image, which QEMU takes as it is.
"""

from __future__ import annotations

import ctypes
import io
import lzma
import struct
import zlib
from typing import Final

from images.compression import ZstdStream
from vmhost.errors import GuestSourceBad, HostUnfit
from vmhost.guest import limits
from vmhost.guest.elf import is_elf

_LZ4_CHUNK: Final = 8 << 20
"""The legacy lz4 format, which the kernel uses: blocks that unpack to 8 MiB each, with their packed lengths."""
_ARM64_MAGIC: Final = b"ARMd"


def direct_kernel(image: bytes, arch: str) -> bytes:
    """What QEMU's -kernel gets, from the package's vmlinuz. Raises `GuestSourceBad`, `HostUnfit`."""
    if arch == "arm64":
        if image[56:60] != _ARM64_MAGIC:
            raise GuestSourceBad("the kernel of the package is no arm64 Image")
        return image
    if image[0x202:0x206] != b"HdrS":
        raise GuestSourceBad("the kernel of the package is no bzImage")
    start = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[start + offset : start + offset + length]
    if len(payload) != length or length < 16:
        raise GuestSourceBad("the kernel of the package is cut short")
    (size,) = struct.unpack("<I", payload[-4:])
    if size > limits.KERNEL_BYTES_MAX:
        raise GuestSourceBad(f"the kernel of the package says that it unpacks to {size} bytes")
    kernel = _unpack(payload, size)
    if len(kernel) != size or not is_elf(kernel):
        raise GuestSourceBad("the kernel of the package does not unpack to what it says")
    return kernel


def _unpack(payload: bytes, size: int) -> bytes:
    try:
        match payload[:4]:
            case b"\x02\x21\x4c\x18":
                return _unpack_lz4(payload[4:-4], size)
            case b"\x28\xb5\x2f\xfd":
                return _read_all(ZstdStream(io.BytesIO(payload[:-4])), size)
            case b"\xfd7zX":
                return lzma.LZMADecompressor().decompress(payload, size)
            case _ if payload[:2] == b"\x1f\x8b":
                return zlib.decompressobj(wbits=31).decompress(payload, size)
    except (lzma.LZMAError, zlib.error) as error:
        raise GuestSourceBad(f"the kernel of the package does not unpack: {error}") from None
    raise GuestSourceBad("the kernel of the package is packed in a way that is not known here")


def _read_all(stream: ZstdStream, size: int) -> bytes:
    parts = []
    while size > 0 and (part := stream.read(min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _unpack_lz4(blocks: bytes, size: int) -> bytes:
    try:
        library = ctypes.CDLL("liblz4.so.1")  # apt needs it too, so it is where packages come from
    except OSError:
        raise HostUnfit("liblz4 is not installed", hint="Debian's package is liblz4-1") from None
    buffer = ctypes.create_string_buffer(_LZ4_CHUNK)
    parts, position, left = [], 0, size
    while left > 0:
        if position + 4 > len(blocks):
            break
        (length,) = struct.unpack_from("<I", blocks, position)
        block = blocks[position + 4 : position + 4 + length]
        made = library.LZ4_decompress_safe(block, buffer, len(block), _LZ4_CHUNK)
        if len(block) != length or made <= 0:
            raise GuestSourceBad("the kernel of the package does not unpack: a bad lz4 block")
        parts.append(buffer.raw[:made])
        position += 4 + length
        left -= made
    return b"".join(parts)
