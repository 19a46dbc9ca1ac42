"""What goes into a guest, as data.

Two profiles of one recipe. `fast` has busybox as PID 1; `systemd` has systemd, as HyperOS had. Either has
systemd-nspawn, an ssh server (dropbear), the agent, and drivers for everything that our machines have. The rest of the
userland is busybox. What lies under files/ is merged in: files/common, then files/PROFILE.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hyperlog.errors import Refused
from vmhost.agent import program as agent

ARCHES: Final = ("amd64", "arm64")
PROFILES: Final = ("fast", "systemd")

FILES: Final = Path(__file__).parent / "files"

RECIPE: Final = 4
"""Counted up when the way a guest is put together changes, so that caches hold no guest of the old way."""


@dataclass(frozen=True)
class Recipe:
    """What one guest is made from; paths as in the guest."""

    arch: str
    profile: str
    packages: tuple[str, ...]  # and what they depend on
    unwanted: tuple[str, ...]  # beginnings of package files that they depend on, but the guest does not need
    programs: tuple[str, ...]  # with the libraries that they need
    libraries: tuple[str, ...]  # that programs load by name at run time, where the pool has them
    units: tuple[str, ...]  # of systemd, from its packages
    wants: tuple[tuple[str, str], ...]  # (target, unit): what each target starts
    modules: tuple[str, ...]  # of the kernel: loaded at the start, in this order
    late_modules: tuple[str, ...]  # loaded then too, but only after a saved machine was restored with its own drives
    spare_modules: tuple[str, ...]  # there for whoever asks
    links: tuple[tuple[str, str], ...]  # (path, target)
    directories: tuple[tuple[str, int], ...]  # (path, permissions)
    files: tuple[Path, ...]  # trees to merge in, later ones over earlier ones


_UNWANTED: Final = (
    # Maintainer scripts do not run, nothing is installed in the guest, and busybox does what these do.
    *("adduser_", "coreutils_", "cpio_", "debconf_", "debianutils_", "dpkg_", "gcc-", "init-system-helpers_"),
    *("initramfs-tools", "klibc-utils_", "libklibc_", "linux-base_", "linux-image-cloud", "login_", "mount_"),
    *(
        "passwd_",
        "perl",
        "libperl",
        "libfile-",
        "libnumber-",
        "libtext-",
        "usrmerge_",
        "sensible-utils_",
        "tar_",
        "ucf_",
        "util-linux",
        "kmod_",
        "logsave_",
        "dmsetup_",
    ),
    *("libfile-", "libnumber-", "libtext-", "usrmerge_"),
    # nspawn's package also has importd, which brings curl, gnutls, ldap and Kerberos; systemd's dbus and udev.
    *("dbus", "libcurl", "libgnutls", "libldap", "libsasl2", "libkrb5", "libk5crypto", "libgssapi", "libnghttp2"),
    *("librtmp", "libssh2", "libpsl", "libbrotli", "libhogweed", "libnettle", "libp11", "libtasn1", "libunistring"),
    *("libidn2", "libdb5", "libgdbm", "libsemanage", "libsepol", "libpam-", "libexpat", "libfdisk", "libsmartcols"),
    *("libdbus", "libkeyutils", "libcom-err", "libffi", "publicsuffix_", "udev_"),
)

_MODULES: Final = (
    *("virtio_mmio", "virtio_pci", "virtio_console", "virtio_rng", "virtio_net", "virtio_balloon"),
    *("fuse", "virtiofs", "overlay", "erofs", "loop", "af_packet", "qemu_fw_cfg"),
)
_LATE: Final = ("virtio_blk",)
_SPARE: Final = (
    *("veth", "bridge", "squashfs", "vmw_vsock_virtio_transport", "tun", "nf_tables", "nft_chain_nat", "nft_masq"),
    *("nft_compat", "dm_mod", "nbd", "isofs", "xen_blkfront"),
)

# The kernel calls /sbin/modprobe; the rest is found by PATH wherever it lies.
_APPLETS: Final = """
[ ash awk base64 basename blkid blockdev cat chgrp chmod chown chroot clear cmp cp cpio cttyhack cut date dd df
diff dirname dmesg du echo ed egrep env expr false fdisk find fold free fsfreeze fstrim getopt getty grep groups gunzip
gzip head hexdump hostname id ifconfig install insmod ionice ip ipcalc kill killall less ln logger losetup ls lsmod
lsof md5sum mkdir mkfifo mknod mkswap mktemp modinfo modprobe more mount mountpoint mv nc netstat nice nohup nproc
nsenter nslookup od partprobe paste patch pgrep pidof ping pivot_root pkill printenv printf ps pwd readlink realpath
renice reset rm rmdir rmmod route sed seq setsid sh sha256sum sleep sort split stat strings stty su swapoff swapon
switch_root sync sysctl tail tar taskset tee telnet test time timeout top touch tr traceroute true truncate tty udhcpc
umount uname uniq unshare unxz uptime usleep vi watch wc wget which who xargs xxd xz yes zcat
"""
_STOPS: Final = "halt poweroff reboot"

_SYSTEMD_PROGRAMS: Final = (
    *("/lib/systemd/systemd", "/lib/systemd/systemd-journald", "/lib/systemd/systemd-shutdown"),
    *("/lib/systemd/systemd-cgroups-agent", "/bin/systemctl", "/bin/journalctl"),
    *("/usr/bin/systemd-run", "/usr/bin/systemd-analyze", "/usr/bin/systemd-detect-virt"),
)
_SYSTEMD_UNITS: Final = (
    *("basic.target", "sysinit.target", "multi-user.target", "local-fs.target", "local-fs-pre.target"),
    *("sockets.target", "timers.target", "paths.target", "slices.target", "swap.target", "shutdown.target"),
    *("umount.target", "final.target", "poweroff.target", "reboot.target", "halt.target", "exit.target"),
    *("network.target", "network-pre.target", "network-online.target", "rescue.target", "emergency.target"),
    *("systemd-poweroff.service", "systemd-reboot.service", "systemd-halt.service"),
    *("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket"),
)
_SYSTEMD_WANTS: Final = (
    ("sockets.target", "systemd-journald.socket"),
    ("sockets.target", "systemd-journald-dev-log.socket"),
    ("sysinit.target", "systemd-journald.service"),
    ("sysinit.target", "hyper-modules.service"),
    ("sysinit.target", "hyper-agent.service"),
    ("multi-user.target", "set-ssh-auth-key.service"),
    ("multi-user.target", "hyper-network.service"),
    ("multi-user.target", "dropbear.service"),
)


def recipe(arch: str, profile: str) -> Recipe:
    """Raises `Refused` for an architecture or profile that there is not."""
    if arch not in ARCHES:
        raise Refused(f"no guest is made for the architecture {arch!r}", hint=f"choose {' or '.join(ARCHES)}")
    if profile not in PROFILES:
        raise Refused(f"there is no guest profile {profile!r}", hint=f"choose {' or '.join(PROFILES)}")
    systemd = profile == "systemd"
    return Recipe(
        arch=arch,
        profile=profile,
        packages=(
            f"linux-image-cloud-{arch}",
            "busybox-static",
            "systemd",
            "systemd-container",
            "dropbear-bin",
            agent.PACKAGE,
        ),
        unwanted=_UNWANTED,
        programs=(
            *(
                "/bin/busybox",
                "/usr/bin/systemd-nspawn",
                "/usr/sbin/dropbear",
                "/usr/bin/dropbearkey",
                agent.INTERPRETER,
            ),
            *(_SYSTEMD_PROGRAMS if systemd else ()),
        ),
        libraries=("libnss_files.so.2",),
        units=_SYSTEMD_UNITS if systemd else (),
        wants=_SYSTEMD_WANTS if systemd else (),
        modules=_MODULES,
        late_modules=_LATE,
        spare_modules=_SPARE,
        links=(
            ("/init", "usr/lib/systemd/systemd" if systemd else "usr/bin/busybox"),
            ("/var/run", "../run"),
            ("/etc/resolv.conf", "../run/resolv.conf"),
            ("/etc/mtab", "../proc/self/mounts"),
            ("/usr/sbin/modprobe", "../bin/busybox"),
            *((f"/usr/bin/{applet}", "busybox") for applet in _APPLETS.split()),
            *((f"/usr/sbin/{name}", f"../bin/{'systemctl' if systemd else 'busybox'}") for name in _STOPS.split()),
            *((("/usr/lib/systemd/system/default.target", "multi-user.target"),) if systemd else ()),
        ),
        directories=(
            *((path, 0o755) for path in ("/proc", "/sys", "/dev", "/run", "/mnt", "/etc/dropbear", "/var/log")),
            ("/var/lib/systemd", 0o755),
            ("/root", 0o700),
            ("/tmp", 0o1777),
            ("/var/tmp", 0o1777),
        ),
        files=(FILES / "common", agent.FILES, FILES / profile),
    )
