"""What a saved machine is called: the same for all that can begin from it, another for all that cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmhost.machines.platforms import processor_model
from vmhost.machines.qemu_argv import Platform
from vmhost.machines.spec import Accelerator, FileDisk, MachineSpec, Model, PortForward
from vmhost.machines.template import template_name

TCG = Platform("amd64", Accelerator.TCG, Model.MICROVM, tsc_khz=2_500_000)
SPEC = MachineSpec("one", "/k", "/i", disks=(FileDisk("blob", "/d", read_only=True),), network=True)


def name(spec: MachineSpec = SPEC, platform: Platform = TCG, processor: str = "model: 1") -> str:
    return template_name(spec, platform, "guest", "QEMU", processor)


def test_what_a_machine_is_given_after_its_start_makes_no_difference() -> None:
    other = replace(
        SPEC,
        name="two",
        disks=(FileDisk("blob", "/e", read_only=True),),
        mac="52:54:00:0:0:1",
        ports=(PortForward(1, 2),),
    )
    assert name(other) == name()
    measured_again = replace(TCG, tsc_khz=2_500_003)
    assert name(platform=measured_again) == name()


@pytest.mark.parametrize("change", [{"memory_mib": 256}, {"cpus": 2}, {"disks": ()}, {"network": False}])
def test_what_it_was_born_with_does(change: dict[str, object]) -> None:
    assert name(replace(SPEC, **change)) != name()  # type: ignore[arg-type]


def test_as_do_board_and_processor() -> None:
    assert name(platform=replace(TCG, model=Model.Q35)) != name()
    assert name(processor="model: 2") != name()


def test_this_hosts_processor_is_called_alike_twice() -> None:
    assert processor_model() == processor_model()
    assert "MHz" not in processor_model()
