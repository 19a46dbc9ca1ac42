"""What can run a machine on this host, best first: the processor's own virtualisation if it works, then the emulator.

Whether KVM works is found out by running a guest (kvm_probe.py), and remembered until the host is started again, as is
that a machine under it stayed silent: then the next one does not wait for that either.
"""

from __future__ import annotations

import json
import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from hyperlog.errors import Refused
from vmhost.machines.kvm_probe import probe_kvm
from vmhost.machines.qemu_argv import Platform, choose_model
from vmhost.machines.spec import Accelerator
from vmhost.machines.tsc import measure_tsc_khz

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_PROCESSORS: Final = Path("/proc/cpuinfo")
_MODEL_FIELDS: Final = re.compile(r"(vendor_id|cpu family|model|model name|stepping|CPU \w+|flags|Features)\s*:")
_ARCHES: Final = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_VERDICT_BYTES_MAX: Final = 4096


def host_arch() -> str:
    """Of this host, in Debian's words; as the machine calls itself where these have none."""
    machine = platform.machine()
    return _ARCHES.get(machine, machine)


def processor_model() -> str:
    """What this host's first processor is, in the kernel's words; empty where it tells nothing."""
    try:
        first = _PROCESSORS.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return ""
    return "\n".join(line for line in first.splitlines() if _MODEL_FIELDS.match(line))


def find_platforms(
    arch: str, remembered: Path, *, needs_pci: bool = False, only: Accelerator | None = None
) -> list[Platform]:
    """Where a guest of `arch` can run, best first. `remembered`: a file for the verdict on KVM. Blocks, some 100 ms.

    `only`: with this accelerator, whatever was found out about it. Raises Refused where that cannot be.
    """
    own = arch == host_arch()
    if only is not None and only is not Accelerator.TCG and not own:
        raise Refused(f"{only.value} runs no {arch} guest on this host", hint="tcg, the emulator, does")
    tsc_khz = measure_tsc_khz() if own and arch == "amd64" else None
    accelerators = [only] if only is not None else _accelerators(remembered, own=own)
    return [
        Platform(arch, accelerator, choose_model(arch, accelerator, tsc_khz=tsc_khz, needs_pci=needs_pci), tsc_khz)
        for accelerator in accelerators
    ]


def _accelerators(remembered: Path, *, own: bool) -> list[Accelerator]:
    if own:
        match platform.system():
            case "Darwin":
                return [Accelerator.HVF, Accelerator.TCG]
            case "Windows":
                return [Accelerator.WHPX, Accelerator.TCG]
            case _ if kvm_problem(remembered) is None:
                return [Accelerator.KVM, Accelerator.TCG]
    return [Accelerator.TCG]


def kvm_problem(remembered: Path) -> str | None:
    """Why KVM cannot be used; None if it can. Blocks."""
    boot = _boot_id()
    with suppress(OSError, ValueError, LookupError, TypeError):
        with remembered.open("rb") as file:
            verdict = json.loads(file.read(_VERDICT_BYTES_MAX))
        if boot and verdict["boot"] == boot:
            return None if verdict["problem"] is None else str(verdict["problem"])
    problem = probe_kvm()
    remember_kvm(remembered, problem)
    return problem


def remember_kvm(remembered: Path, problem: str | None) -> None:
    """Until the host is started again. Where it cannot be written it is found out anew."""
    with suppress(OSError):
        remembered.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = remembered.with_suffix(".new")
        new.write_text(json.dumps({"boot": _boot_id(), "problem": problem}), encoding="utf-8")
        new.replace(remembered)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
