"""Every bound of vmhost, with its unit and reason."""

from __future__ import annotations

from typing import Final

READ_DEADLINE_SECONDS: Final = 30.0  # a blob read that nobody answers becomes EIO after this
FUSE_TASKS: Final = 512  # reads that may wait at once; more queue in the kernel
BLOB_CACHE_BYTES: Final = 1 << 20  # of unpacked blocks in the process that serves blobs: some sixteen
BLOB_LEARN_BLOCKS: Final = 256  # whose places it is told at once, at most: half a millisecond of the node
BLOB_PROCESS_RESTARTS: Final = 5  # of one that ended within a second, before the mounts are given up
BLOB_WORDS_SECONDS: Final = 5.0  # for it to take a message
BLOB_AWAKE_SECONDS: Final = 100e-6  # for the next request, before sleeping: a reader's waking and a little more
FUSE_BACKGROUND: Final = 256  # the kernel's cap on read-ahead requests in flight; its 12 would starve fetching

NBD_CONNECTIONS: Final = 8  # at once to one machine's disks: QEMU has one for each
NBD_TASKS: Final = 32  # reads that may wait at once on a connection; later ones wait on its line
NBD_OPTIONS: Final = 64  # that a client may negotiate before it reads
NBD_HANDSHAKE_SECONDS: Final = 10.0  # for all of that
NBD_SEND_SECONDS: Final = 60.0  # for one answer to be taken: QEMU takes them also while its guest is paused

VIEW_START_SECONDS: Final = 60.0  # for the process of a plain view: Python, a manifest of any size, the mount
VIEW_WORDS_BYTES: Final = 4096  # of its last words, should it fail

MOUNT_THREADS: Final = 4  # mount(2), umount2(2) and everything else that may wait for a mount that we serve
STREAM_THREADS: Final = 4  # reads and writes of regular files and other descriptors that cannot be polled

CLOSE_SECONDS: Final = 10.0  # for all of one clean-up; longer means something is stuck and is forced
UNMOUNT_SECONDS: Final = 1.0  # EBUSY is retried so long: FUSE under EROFS is busy for a moment (deferred fput)
UNMOUNT_RETRY_SECONDS: Final = 0.01
STOP_SECONDS: Final = 5.0  # between asking a child process to stop and killing it

GROUPS_INSIDE_MAX: Final = 4096  # control groups that what runs in a container may make; systemd makes some hundred

RELAY_BYTES: Final = 64 * 1024  # one read of a relayed stream: a pipe's capacity
HELD_STDERR_BYTES: Final = 64 * 1024  # of nspawn's own words before the program runs
STOP_SIGNALS_TO_KILL: Final = 3  # the third SIGINT or SIGTERM kills the container

ENTER_SECONDS: Final = 30.0  # for a process of ours to enter a container and start a program there
USER_RANGE_IDS: Final = 65536  # of a container, as everywhere; more only where an image needs it
USER_RANGE_IDS_MAX: Final = 1 << 28
USER_NAMESPACE_SECONDS: Final = 10.0  # for a child to start and unshare

USER_TABLE_BYTES: Final = 1 << 20  # of an image's /etc/passwd and /etc/group
RUN_NAMES_MAX: Final = 256  # right under an image's /run, each a mount of its own in the container
PROPAGATION_BYTES: Final = 1 << 16  # nspawn puts nothing there unless asked by machinectl
MOUNT_DATA_BYTES: Final = 4095  # mount(2) takes one page of options, with its NUL
SYMLINK_DEPTH: Final = 40  # the kernel's own

USER_NETWORK_MTU: Final = 65520  # no wire limits it: what slirp4netns takes at most for IPv4
