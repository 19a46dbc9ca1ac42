"""What is missing on a host, named, most fundamental first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmhost.errors import HostUnfit
from vmhost.host_probe import Host, Problem, Purpose, findings, kernel_version, observe, require

FIT = Host(
    user_id=0,
    kernel=(6, 12),
    has_fuse_device=True,
    may_open_fuse=True,
    has_pyfuse3=True,
    has_fusermount=True,
    has_erofs=True,
    has_loop=False,
    has_overlayfs=True,
    has_nspawn=True,
    has_setpriv=True,
)


@pytest.mark.parametrize(
    ("host", "problems"),
    [
        (FIT, []),
        (replace(FIT, user_id=1000, may_open_fuse=False), [Problem.NOT_ROOT]),
        (replace(FIT, has_fuse_device=False, may_open_fuse=False), [Problem.NO_FUSE_DEVICE]),
        (replace(FIT, may_open_fuse=False), [Problem.FUSE_DENIED]),
        (replace(FIT, has_erofs=False), [Problem.NO_EROFS]),
        (replace(FIT, kernel=(6, 11)), [Problem.NO_LOOP]),
        (replace(FIT, kernel=(6, 11), has_loop=True), []),
        (replace(FIT, kernel=(5, 15), has_loop=True), [Problem.OLD_KERNEL]),
        (replace(FIT, has_overlayfs=False), [Problem.NO_OVERLAYFS]),
        (replace(FIT, has_nspawn=False, has_setpriv=False), [Problem.NO_NSPAWN, Problem.NO_SETPRIV]),
        (replace(FIT, user_id=1, has_fuse_device=False, has_erofs=False), [
            Problem.NOT_ROOT, Problem.NO_FUSE_DEVICE, Problem.NO_EROFS,
        ]),
    ],
)  # fmt: skip
def test_problems_of_a_container_host(host: Host, problems: list[Problem]) -> None:
    found = findings(host, Purpose.CONTAINER)
    assert [finding.problem for finding in found] == problems
    assert all(finding.message and finding.hint for finding in found)


def test_a_view_needs_less_than_a_container() -> None:
    bare = replace(FIT, has_overlayfs=False, has_nspawn=False, has_setpriv=False, has_pyfuse3=False)
    assert findings(bare, Purpose.MOUNT) == []
    plain = replace(FIT, user_id=1000, has_overlayfs=False, has_nspawn=False, has_erofs=False, kernel=(5, 4))
    assert findings(plain, Purpose.VIEW) == []
    for lacking, problem in (
        (replace(plain, has_fusermount=False), Problem.NO_FUSERMOUNT),
        (replace(plain, may_open_fuse=False), Problem.FUSE_DENIED),
        (replace(plain, has_pyfuse3=False), Problem.NO_PYFUSE3),
        (replace(plain, has_setpriv=False), Problem.NO_SETPRIV),
    ):
        assert [each.problem for each in findings(lacking, Purpose.VIEW)] == [problem]


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.1.0-13-amd64", (6, 1)), ("6.18.44-x", (6, 18)), ("10.0", (10, 0)), ("", (0, 0)), ("next", (0, 0))],
)
def test_kernel_versions(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


def test_this_host_can_be_observed() -> None:
    host = observe()
    assert host.kernel > (3, 0)
    problems = findings(host, Purpose.CONTAINER)
    if problems:
        with pytest.raises(HostUnfit) as caught:
            require(Purpose.CONTAINER)
        assert caught.value.hint == problems[0].hint
    else:
        require(Purpose.CONTAINER)
