"""Paths of an image end inside it, and odd roots are refused in words."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hyperlog.errors import Refused
from vmhost.errors import ProgramNotExecutable, ProgramNotFound, RootUnusable
from vmhost.rootfs import find_init, find_program, make_workdir, names_in_run, prepare_root, read_user
from vmhost.users import ROOT, User

SEARCH = ("/usr/bin", "/bin")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    for name in ("usr/bin", "etc", "srv/app"):
        (top / name).mkdir(parents=True)
    program(top / "usr/bin/tool")
    program(top / "srv/app/run")
    (top / "usr/bin/text").write_text("no program")
    (top / "bin").symlink_to("usr/bin")
    (tmp_path / "outside").mkdir()
    program(tmp_path / "outside/secret")
    return top


def program(path: Path) -> None:
    path.write_bytes(b"#!")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("name", "workdir", "found"),
    [
        ("tool", "/", "/usr/bin/tool"),
        ("/bin/tool", "/", "/bin/tool"),
        ("run", "/srv/app", None),
        ("./run", "/srv/app", "/srv/app/./run"),
        ("absolute", "/", "/usr/bin/absolute"),
        ("climbing", "/", "/usr/bin/climbing"),
        ("/../../../../usr/bin/tool", "/", "/../../../../usr/bin/tool"),
    ],
)
def test_programs_are_found_inside(root: Path, name: str, workdir: str, found: str | None) -> None:
    (root / "usr/bin/absolute").symlink_to("/srv/app/run")
    (root / "usr/bin/climbing").symlink_to("../../../../../../srv/app/run")
    if found is None:
        with pytest.raises(ProgramNotFound, match=name):
            find_program(str(root), name, search=SEARCH, workdir=workdir)
    else:
        assert find_program(str(root), name, search=SEARCH, workdir=workdir) == found


def test_links_do_not_lead_out(root: Path) -> None:
    (root / "usr/bin/escape").symlink_to(f"{root.parent}/outside/secret")
    (root / "usr/bin/loop").symlink_to("loop")
    for name in ("escape", "loop", "../outside/secret"):
        with pytest.raises(ProgramNotFound):
            find_program(str(root), name, search=SEARCH, workdir="/")


def test_what_cannot_be_run_is_told_apart(root: Path) -> None:
    (root / "usr/bin/directory").mkdir()
    for name in ("text", "directory", "/etc"):
        with pytest.raises(ProgramNotExecutable, match=name):
            find_program(str(root), name, search=SEARCH, workdir="/")
    with pytest.raises(RootUnusable, match="no directory /absent"):
        find_program(str(root), "tool", search=SEARCH, workdir="/absent")


def test_a_system_needs_an_init(root: Path) -> None:
    with pytest.raises(ProgramNotFound, match="no init"):
        find_init(str(root))
    (root / "sbin").mkdir()
    (root / "sbin/init").write_text("no program")
    with pytest.raises(ProgramNotExecutable, match="/sbin/init"):
        find_init(str(root))
    (root / "lib").mkdir()
    (root / "lib/systemd").mkdir()
    program(root / "lib/systemd/systemd")
    find_init(str(root))


def test_a_missing_working_directory_is_made_inside(root: Path) -> None:
    (root / "srv/out").symlink_to("/etc")
    (root / "srv/file").touch()
    for workdir, made in (("/srv/app", "srv/app"), ("/srv/new/deep", "srv/new/deep"), ("/srv/out/x", "etc/x")):
        make_workdir(str(root), workdir)
        assert (root / made).is_dir()
    (root / "srv/away").symlink_to("../../../../outside")
    for workdir in ("/srv/file", "/srv/file/x", "/srv/away"):
        with pytest.raises(RootUnusable):
            make_workdir(str(root), workdir)
    assert sorted(path.name for path in (root.parent / "outside").iterdir()) == ["secret"]


def test_users_come_from_the_images_own_tables(root: Path) -> None:
    (root / "etc/passwd").symlink_to("/srv/passwd")
    (root / "srv/passwd").write_text("app:x:50:51::/srv:/bin/sh\n")
    assert read_user(str(root), "app") == User(50, 51, (), "app", "/srv")
    assert read_user(str(root), "root") == ROOT
    with pytest.raises(Refused):
        read_user(str(root), os.environ.get("USER", "daemon"))


def test_tables_that_are_no_files_do_not_hang(root: Path) -> None:
    os.mkfifo(root / "etc/passwd")
    (root / "etc/group").symlink_to("/dev/zero")
    assert read_user(str(root), "5") == User(5, 0, (), None, None)


def test_a_bare_root_is_prepared(tmp_path: Path) -> None:
    for _ in range(2):
        prepare_root(str(tmp_path))
        assert stat.S_IMODE((tmp_path / "usr").stat().st_mode) == 0o755
        assert stat.S_IMODE((tmp_path / "tmp").stat().st_mode) == 0o1777


def test_what_is_there_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir(mode=0o700)
    prepare_root(str(tmp_path))
    assert stat.S_IMODE((tmp_path / "tmp").stat().st_mode) == 0o700


def test_roots_that_would_mislead_nspawn_are_refused(tmp_path: Path) -> None:
    def case(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    linked_usr, file_usr, fifo, linked, linked_etc = map(case, ("a", "b", "c", "d", "e"))
    (linked_usr / "usr").symlink_to("/usr")
    (file_usr / "usr").touch()
    for root in (fifo, linked):
        (root / "etc").mkdir()
    os.mkfifo(fifo / "etc/machine-id")  # nspawn would wait for a writer for ever
    (linked / "etc/machine-id").symlink_to("/dev/kmsg")
    (linked_etc / "etc").symlink_to("/etc")
    for root in (linked_usr, file_usr, fifo, linked, linked_etc):
        with pytest.raises(RootUnusable):
            prepare_root(str(root))


def test_what_an_image_has_in_run(root: Path) -> None:
    assert names_in_run(str(root)) == []
    for name in ("postgresql", "lock", "host", "systemd"):
        (root / "run" / name).mkdir(parents=True)
    (root / "run/file").touch()
    (root / "run/link").symlink_to("/etc")
    assert names_in_run(str(root)) == ["file", "lock", "postgresql"]
    for number in range(300):
        (root / "run" / str(number)).touch()
    with pytest.raises(RootUnusable, match="303 names"):
        names_in_run(str(root))


def test_a_run_that_leads_elsewhere_hides_nothing(root: Path) -> None:
    (root / "run").symlink_to(root.parent / "outside")
    assert names_in_run(str(root)) == []
