"""Every bound of the guest's build and cache, with its unit and reason."""

from __future__ import annotations

from typing import Final

GUEST_BYTES_MAX: Final = 20 * 10**6  # kernel and initrd together, packed: what the recipes promise (tests hold it)

LISTS_FRESH_SECONDS: Final = 24 * 3600.0  # package lists older than this are renewed, if a mirror answers
UPDATE_SECONDS: Final = 120.0  # apt-get update; ten megabytes
RESOLVE_SECONDS: Final = 60.0  # apt-get's own thinking, under load
DOWNLOAD_SECONDS: Final = 600.0  # about 50 MB; a slow line is no error
LOCK_SECONDS: Final = 600.0  # while another process builds
LOCK_POLL_SECONDS: Final = 0.2

PACKAGES_MAX: Final = 400  # of one guest; Debian's closure has about a hundred
PACKAGE_BYTES_MAX: Final = 200 << 20  # one .deb; the cloud kernel has 27 MB
UNPACKED_BYTES_MAX: Final = 1 << 30  # of one .deb
APT_WORDS: Final = 400  # characters of apt's last words in an error

KERNEL_BYTES_MAX: Final = 256 << 20  # unpacked; Debian's cloud kernel has 53 MB
INITRD_BYTES_MAX: Final = 512 << 20  # unpacked: the guest holds all of it in memory
INCLUDE_FILES_MAX: Final = 10_000  # of an overlay directory
LINKS_MAX: Final = 40  # symbolic links followed for one name: the kernel's own number

PACK_LEVEL: Final = 19  # of zstd: 9.2 MB of kernel instead of 11.0 at level 12, for 15 s of one core's time
PACK_THREADS: Final = 2  # any number gives the same bytes, as long as it is not 0

INFO_BYTES_MAX: Final = 1 << 20  # guest.json

BOOT_SECONDS: Final = 180.0  # until the ssh server answers: 5 s under emulation, 50 were seen under load
HALT_SECONDS: Final = 60.0  # until the guest has turned itself off
KEEPER_SECONDS: Final = 5.0  # between asking a machine's keeper to end and killing it
ONLINE_POLL_SECONDS: Final = 0.2
ENDED_POLL_SECONDS: Final = 0.05
BANNER_SECONDS: Final = 5.0  # one try to hear an ssh server
SSH_CONNECT_SECONDS: Final = 60  # of ssh's own; key exchange takes seconds under emulation
LAST_WORDS_BYTES: Final = 16 << 10
LAST_WORDS_LINES: Final = 5
