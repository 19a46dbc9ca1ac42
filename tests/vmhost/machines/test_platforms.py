"""What can run a machine here, and for whom it is enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hypernode.errors import Untrusted
from hypernode.host_trust import check_host_trust
from hypernode.isolation import trusted_platforms
from vmhost.machines.platforms import find_platforms, host_arch, kvm_problem, remember_kvm
from vmhost.machines.qemu_argv import Platform
from vmhost.machines.spec import Accelerator, Model

TCG = Platform("amd64", Accelerator.TCG, Model.MICROVM)
KVM = Platform("amd64", Accelerator.KVM, Model.MICROVM)


def test_the_emulator_is_there_always_and_last(tmp_path: Path) -> None:
    remember_kvm(tmp_path / "kvm.json", "not today")
    assert [one.accelerator for one in find_platforms(host_arch(), tmp_path / "kvm.json")] == [Accelerator.TCG]
    foreign = "arm64" if host_arch() == "amd64" else "amd64"
    assert [one.accelerator for one in find_platforms(foreign, tmp_path / "kvm.json")] == [Accelerator.TCG]
    remember_kvm(tmp_path / "kvm.json", None)
    accelerators = [one.accelerator for one in find_platforms(host_arch(), tmp_path / "kvm.json")]
    assert accelerators == [Accelerator.KVM, Accelerator.TCG]


def test_a_verdict_holds_until_the_host_is_started_again(tmp_path: Path) -> None:
    file = tmp_path / "state" / "kvm.json"
    remember_kvm(file, "planted")
    assert kvm_problem(file) == "planted"
    file.write_text(json.dumps({"boot": "another", "problem": "planted"}))
    assert kvm_problem(file) != "planted"
    assert json.loads(file.read_text())["boot"] != "another"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"boot": 1}', "\xff"])
def test_a_damaged_verdict_is_found_anew(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kvm.json"
    file.write_bytes(text.encode("latin-1"))
    first = kvm_problem(file)
    assert first == kvm_problem(file)


def test_without_a_boundary_an_unknown_image_is_refused() -> None:
    assert trusted_platforms([KVM, TCG], None, trusted=False) == [KVM]
    assert trusted_platforms([KVM, TCG], None, trusted=True) == [KVM, TCG]
    with pytest.raises(Untrusted, match="there is no /dev/kvm") as refused:
        trusted_platforms([TCG], "there is no /dev/kvm", trusted=False)
    assert "--trust" in str(refused.value.hint)


@pytest.mark.parametrize("users", [None, [65536, 65536]])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("trusted", [True, False])
def test_on_the_host_users_of_its_own_or_trust(users: list[int] | None, known: bool, trusted: bool) -> None:
    ready = {"users": users, "known": known}
    if users or known or trusted:
        check_host_trust(ready, trusted=trusted)
    else:
        with pytest.raises(Untrusted):
            check_host_trust(ready, trusted=trusted)
