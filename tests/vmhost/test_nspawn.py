"""The command line of a container, decided without running anything."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pytest

from hyperlog.errors import Refused
from vmhost.mount_syscalls import MountPoint
from vmhost.nspawn import (
    HALT_SIGNAL,
    Bind,
    NspawnSpec,
    bundle_config,
    needs_tmpfs,
    nspawn_argv,
    nspawn_environment,
    propagation_directory,
    with_identity,
)
from vmhost.users import User

SPEC = NspawnSpec(root="/run/x/root", argv=("python3", "-c", "print()"), machine="hn-1", hostname="box")
WORKER = User(33, 34, (4,), "worker", "/var/worker")


def test_the_command_line() -> None:
    assert nspawn_argv(SPEC, interactive=False, bundle=None) == [
        "systemd-nspawn",
        "--quiet",
        "--directory=/run/x/root",
        "--settings=no",
        "--machine=hn-1",
        "--hostname=box",
        "--register=no",
        "--keep-unit",
        "--as-pid2",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--console=pipe",
        "--chdir=/",
        "--private-network",
        "--",
        "python3",
        "-c",
        "print()",
    ]


def test_what_a_spec_adds() -> None:
    spec = replace(SPEC, workdir="/srv", host_network=True)
    argv = nspawn_argv(spec, interactive=True, bundle=None)
    options = argv[: argv.index("--")]
    assert {"--chdir=/srv", "--console=interactive"} <= set(options)
    assert "--private-network" not in options
    spec = replace(SPEC, binds=(Bind("/a:b/c\\d", "/run/e"),))
    assert "--bind=/a\\:b/c\\\\d:/run/e:norbind" in nspawn_argv(spec, interactive=True, bundle=None)


def test_another_user_and_variables_come_as_a_bundle() -> None:
    spec = replace(SPEC, env={"A": "1 2\n", "B": "secret"})
    argv = nspawn_argv(spec, interactive=False, bundle="/run/x/bundle")
    assert "secret" not in " ".join(argv)
    assert "--oci-bundle=/run/x/bundle" in argv
    # With it nspawn would ignore the bundle.
    assert not any(option.startswith(("--directory", "--settings", "--user")) for option in argv)
    config = json.loads(bundle_config(spec, WORKER, (1024, 4096)))
    assert config["process"]["env"] == ["A=1 2\n", "B=secret"]
    assert config["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}]
    assert config["root"] == {"path": "/run/x/root"}
    assert config["process"]["user"] == {"uid": 33, "gid": 34, "additionalGids": [4]}


def test_a_system_runs_its_own_init_and_is_told_to_power_off() -> None:
    system = replace(SPEC, argv=("/sbin/init", "--unit=x"), is_system=True, env={"A": "1"})
    argv = nspawn_argv(system, interactive=False, bundle=None)
    assert {"--boot", "--console=read-only", "--setenv=A=1"} <= set(argv)
    assert not {"--as-pid2", "--chdir=/"} & set(argv)
    assert argv[-2:] == ["--", "--unit=x"]
    assert "--console=interactive" in nspawn_argv(system, interactive=True, bundle="/run/x/bundle")
    sent = {number: system.signal_for(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    assert sent == {signal.SIGTERM: HALT_SIGNAL, signal.SIGINT: HALT_SIGNAL, signal.SIGUSR1: signal.SIGUSR1}
    assert SPEC.signal_for(signal.SIGTERM) == signal.SIGTERM


def test_a_program_cannot_be_taken_for_an_option() -> None:
    argv = nspawn_argv(replace(SPEC, argv=("--bind=/", "-x")), interactive=False, bundle=None)
    assert argv[-3:] == ["--", "--bind=/", "-x"]


def test_identity_does_not_override_the_spec() -> None:
    env = with_identity(replace(SPEC, env={"HOME": "/mine"}), WORKER).env
    assert env == {"USER": "worker", "LOGNAME": "worker", "HOME": "/mine"}
    assert with_identity(SPEC, User(5, 5, (), None, None)).env == {"HOME": "/"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("argv", ()),
        ("argv", ("",)),
        ("argv", ("a\0b",)),
        ("root", "relative"),
        ("workdir", "relative"),
        ("machine", ""),
        ("machine", "a/b"),
        ("machine", "-a"),
        ("hostname", "a" * 65),
        ("hostname", "a b"),
        ("env", {"": "x"}),
        ("env", {"A=B": "x"}),
        ("env", {"1A": "x"}),
        ("env", {"A": "\0"}),
        ("user", "a\0"),
    ],
)
def test_a_malformed_spec_is_refused(field: str, value: object) -> None:
    with pytest.raises(Refused):
        replace(SPEC, **{field: value})  # type: ignore[arg-type]


def test_the_path_of_the_image_counts() -> None:
    assert SPEC.search_path[-1] == "/bin"
    assert replace(SPEC, env={"PATH": "/opt/bin::/bin"}).search_path == ("/opt/bin", "/bin")


def test_nspawns_own_environment() -> None:
    assert "TERM" not in nspawn_environment(None)
    assert nspawn_environment("xterm")["TERM"] == "xterm"


def table(*rows: tuple[str, str]) -> list[MountPoint]:
    return [MountPoint(number, 0, "0:1", path, kind, "none") for number, (path, kind) in enumerate(rows)]


@pytest.mark.parametrize(
    ("mounts", "needed"),
    [
        (table(("/", "ext4"), ("/run", "tmpfs")), False),
        (table(("/", "ext4"), ("/runner", "tmpfs")), True),
        (table(("/", "ext4"), ("/run", "tmpfs"), ("/run/systemd", "ext4")), True),
        (table(("/", "tmpfs")), False),
        (table(("/", "overlay")), True),
        ([], True),
    ],
)
def test_a_tmpfs_of_its_own_only_where_run_is_none(mounts: list[MountPoint], needed: bool) -> None:
    assert needs_tmpfs(propagation_directory("hn-1"), mounts) is needed
