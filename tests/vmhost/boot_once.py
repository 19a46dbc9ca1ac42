"""Not a test: a program that boots an image once, for tests that need a process to signal or to kill.

boot_once.py PLACE METADATA BLOB CMD [ARG…]. With HOLD=SECONDS in its environment no read is ever
answered, that is the deadline, and each read that begins to wait is said on stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import trio

from hyperlog.errors import HyperError
from tests.vmhost.support import Failures, FileBlob
from vmhost.blob_server import BlobServer
from vmhost.console import run_container
from vmhost.image_mount import CONTAINER_LOWER, mount_image, mount_overlay, mount_tmpfs
from vmhost.nspawn import NspawnSpec
from vmhost.terminal import is_terminal


async def boot(arguments: Sequence[str]) -> int:
    """The exit code of the command in the image."""
    place, metadata, blob_path, *argv = arguments
    held = float(os.environ.get("HOLD", "0"))
    server = BlobServer(f"{place}/fuse", on_read_failure=Failures(), read_deadline_seconds=held or 10.0)
    blob = FileBlob(blob_path, held=held > 0, on_wait=lambda: os.write(2, b"waiting\n"))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        async with (
            mount_image(
                server, [("blob", blob)], metadata_path=metadata, target=f"{place}/lower", flags=CONTAINER_LOWER
            ) as lower,
            mount_tmpfs(f"{place}/scratch", size_bytes=1 << 26) as scratch,
            mount_overlay(lower, upper=f"{scratch}/upper", work=f"{scratch}/work", target=f"{place}/root") as root,
        ):
            spec = NspawnSpec(
                root=root,
                argv=tuple(argv),
                machine=f"test-{os.getpid()}",
                hostname="box",
                user=os.environ.get("AS", "root"),
            )
            code = await run_container(
                spec, stdin=0, stdout=1, stderr=2, tty=is_terminal(0, 1), on_first_output=lambda: None
            )
        nursery.cancel_scope.cancel()
    return code


if __name__ == "__main__":
    try:
        sys.exit(trio.run(boot, sys.argv[1:]))
    except* HyperError as group:
        sys.stderr.write(f"{group.exceptions[0]!r}\n")
        sys.exit(99)
