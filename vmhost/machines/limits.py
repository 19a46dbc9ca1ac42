"""Bounds of virtual machines, each with its unit and reason."""

from __future__ import annotations

from typing import Final

MEMORY_MIB_MIN: Final = 128
"""Below it the guest's own initrd and kernel leave nothing to run anything in."""
MEMORY_MIB_MAX: Final = 1 << 20
MEMORY_MIB_DEFAULT: Final = 512
CPUS_MAX: Final = 255
PORTS_MAX: Final = 64
SHARES_MAX: Final = 16
"""Directories of the host: each is a process there and a device here, and a microvm has few places for devices."""

START_SECONDS: Final = 10.0
"""Until QEMU answers on its control socket: it has opened all of its files by then."""
DOMAIN_SECONDS: Final = 60.0
"""Until xl has made a domain: it runs scripts of the host's for each of its disks."""
COMMAND_SECONDS: Final = 10.0
"""For one command of the control socket that moves no memory."""
SAVE_SECONDS: Final = 300.0
"""Writing or reading all of a machine's memory on a slow disk."""
BOOT_SECONDS: Final = 120.0
"""From QEMU's start until the guest answers: 2 to 5 s under emulation on an idle machine, 46 s were seen under load."""
KVM_SILENT_SECONDS: Final = 8.0
"""A guest under KVM answers within a second. One that has not even said anything by then hangs."""
QUIT_SECONDS: Final = 1.0
"""Between asking QEMU to end and killing it: whatever the guest wanted to keep was synced before."""

CONTROL_LINE_BYTES: Final = 1 << 20
"""One line of QMP."""
CONSOLE_FILE_BYTES: Final = 1 << 20
"""Of each of the two files a console is kept in; the older one goes when the newer is full."""
CONSOLE_TAIL_BYTES: Final = 16 << 10
"""Kept in memory to say what the console last said."""
CONSOLE_READ_BYTES: Final = 64 << 10
CONSOLE_REST_SECONDS: Final = 0.01
"""Between two reads of a console: a flood costs the guest, which waits, and not the host (at most 6 MB/s)."""

TRANSLATED_MIB: Final = 128
"""Of translated code that the emulator keeps; QEMU's own is 1024. Importing half of Python's library fills 80, and
with 32 the same takes half as long again."""
PROBE_SECONDS: Final = 5.0
"""For the child that tries KVM: starting Python takes most of it, the trial itself 10 ms."""
TSC_SAMPLE_SECONDS: Final = 0.02
"""Over which the processor's clock is measured: the two ends are known to a microsecond, so to 1 in 10 000."""

SYNC_SECONDS: Final = 10.0
"""For what a program left in mapped pages to reach the host's directories, once it has ended."""
LAST_WORDS_SECONDS: Final = 1.0
"""For what a machine said before it ended to be read, and its end to be seen."""
GUEST_OWN_MIB: Final = 100
"""Of a machine's memory that the guest takes for itself beside an idle container."""
GUEST_MIB: Final = 160
"""Of a machine's memory that what a container writes leaves to the guest (100 with an idle container) and programs."""
ANSWER_BYTES: Final = 1 << 16
"""Of what a program of the guest's own says that is asked for something."""

TEMPLATES_MAX: Final = 4
"""Saved machines that are kept, the last ones made: each takes some 100 MB."""
ABANDONED_SECONDS: Final = 60.0
"""Since the place of a template was last changed, with no machine in it: its maker was killed."""
TEMPLATE_DISK_BYTES: Final = 4096
"""Of the disks that a template has and never looks at."""
