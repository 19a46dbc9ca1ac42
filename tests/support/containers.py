"""Detached containers in tests: the home they live in, what is said of them, and what they must not leave behind."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.nodes import Node, wait_until
from vmhost.cgroup import hierarchies


class Home:
    """A node's home with one image shared in it, and what is asked of its containers."""

    def __init__(self, node: Node, link: str) -> None:
        self.node = node
        self.link = link

    def do(self, *words: str, status: int = 0, stdin: str = "") -> str:
        """Run a command that ends with `status`; what it printed."""
        done = self.node.run(*words, stdin=stdin)
        assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def boot(self, *options: str, script: str) -> str:
        """A detached container that runs a shell script; its id."""
        return self.do("boot", "-d", *options, self.link, "--", "sh", "-c", script).strip()

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.do("inspect", container))[0]
        return found

    def state(self, container: str) -> dict[str, Any]:
        """As the container's directory says it, without asking anybody."""
        [directory] = [path for path in (self.node.home / "containers").iterdir() if _names(path, container)]
        try:
            read: dict[str, Any] = json.loads((directory / "state.json").read_text())
        except FileNotFoundError:
            return {"status": "created"}
        return read

    def wait_status(self, container: str, status: str) -> None:
        wait_until(lambda: self.state(container)["status"] == status, f"{container} is {status}")

    def wait_log(self, container: str, text: str) -> str:
        """The log, once `text` is in it."""
        log: list[str] = [""]

        def is_there() -> bool:
            log[0] = self.do("logs", container)
            return text in log[0]

        wait_until(is_there, f"{text!r} in the log of {container}")
        return log[0]

    def names(self, *options: str) -> list[str]:
        return [row["name"] for row in json.loads(self.do("ps", "--json", *options))["containers"]]


def _names(path: Path, container: str) -> bool:
    try:
        spec = json.loads((path / "spec.json").read_text())
    except (OSError, ValueError):
        return False
    return container in (spec["name"], spec["id"], spec["id"][:12])


def share(node: Node, root: Path) -> Home:
    """The home of `node`, with `root` as its image. A daemon must run there."""
    done = node.run("share", str(root))
    assert done.returncode == 0, done.stderr
    return Home(node, done.stdout.strip())


def groups(home: Path) -> set[str]:
    """The control groups of containers, without those of other homes, as far as that can be told: other tests run too.

    Theirs are those with processes of which none is this home's, and empty ones that this home's events do not know.
    """
    found = hierarchies()
    tops = {*([] if found.unified is None else [found.unified]), *found.old.values()}
    within: dict[str, set[str]] = {}
    for top in tops:
        for path in top.glob("hypernode-*"):
            pids = within.setdefault(path.name, set())
            for entry in path.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    pids.update(entry.read_text().split())
    if not within:
        return set()
    ours = {line.partition(" ")[0] for line in processes_of(home)}
    events = "".join(path.read_text() for path in home.glob("events.jsonl*"))
    return {
        name
        for name, pids in within.items()
        if pids & ours or (not pids and (not events or name.removeprefix("hypernode-") in events))
    }


def processes_of(home: Path) -> list[str]:
    """Command lines of processes that have something of this home: their arguments, or their root file system."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            root = next(
                (line for line in (entry / "mountinfo").read_text().splitlines() if line.split(" ")[4] == "/"), ""
            )
            if f"{home}/" in words or f"{home}/" in root:
                found.append(f"{entry.name} {words}")
    return found


def lock_holders(lock: Path) -> list[int]:
    """Who holds the flock on the file."""
    with contextlib.suppress(FileNotFoundError):
        inode = lock.stat().st_ino
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return [
            int(row[4]) for row in rows if row[1] == "FLOCK" and int(row[5].split(":")[2]) == inode and int(row[4]) > 0
        ]
    return []


@contextlib.contextmanager
def nothing_of_containers_left(home: Path) -> Iterator[None]:
    """After the block: no container, process, control group, mount or run directory of the home more than before."""
    before = groups(home)
    yield
    left = home / "containers"
    wait_until(lambda: not (left.exists() and [path for path in left.iterdir() if path.is_dir()]), "no container")
    wait_until(lambda: not list((home / "run/boot").glob("*")), "no root file system")
    wait_until(lambda: f" {home}/run/boot" not in Path("/proc/self/mountinfo").read_text(), "no mount")
    wait_until(lambda: groups(home) <= before, "no control group")
    volumes = home / "volumes"
    assert not (volumes.exists() and [path for path in volumes.iterdir() if path.name.startswith("container-")])
