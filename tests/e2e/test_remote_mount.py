"""The file system here, the store there: over standard input and output, TCP with a token, and a real sshd."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.netns import NamespacePair
from tests.support.nodes import Node, daemon, end, running, wait_until
from tests.support.sources import TOP
from tests.support.trees import differences

pytestmark = [pytest.mark.real("root", "fuse", "erofs"), pytest.mark.slow]

_FAR = 5_000_000_000
"""Past what 32 bits count."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("remote") / "tree"
    (tree / "dir").mkdir(parents=True)
    (tree / "dir" / "large").write_bytes(os.urandom(30_000_000))
    (tree / "dir" / "small").write_bytes(b"small")
    (tree / "dir" / "small").chmod(0o640)
    os.setxattr(tree / "dir" / "small", "user.note", b"\0value")
    os.symlink("large", tree / "dir" / "link")
    with (tree / "sparse").open("wb") as file:
        file.seek(_FAR)
        file.write(b"beyond")
    return tree


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Node:
    """A home with the tree as `image`; no node runs in it."""
    node = Node(tmp_path_factory.mktemp("store") / "there" / "home")
    node.home.parent.mkdir()
    with daemon(node):
        done = node.run("share", str(tree), "--name", "image")
        assert done.returncode == 0, done.stderr
    return node


@pytest.fixture
def client(tmp_path: Path) -> Node:
    return Node(tmp_path / "here" / "home")


@contextmanager
def _mounted(client: Node, view: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The image `image` at `view`, until left; the mount must end well."""
    view.mkdir(exist_ok=True)
    with running(client.start("mount", "image", str(view), *options)) as process:
        wait_until(lambda: os.path.ismount(view) or process.poll() is not None, "it is mounted")
        if process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        yield process
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert not os.path.ismount(view)


def _command(argv: Sequence[str]) -> str:
    return f"stdio:{shlex.join(argv)}"


@contextmanager
def _listening(store: Node, token: Path, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    argv = ("serve-mounts", "image", "--listen", f"127.0.0.1:{port}", "--token-file", str(token))
    with running(store.start(*argv)) as process:
        assert process.stdout is not None
        word, address = (process.stdout.readline().split() or ["", ""])[:2]
        assert word == "ready", process.communicate()[1]
        yield address, process


def test_the_remote_tree_is_the_tree_and_nothing_of_it_stays(store: Node, client: Node, tree: Path) -> None:
    view = client.home.parent.parent / "view"
    remote = _command(store.argv("serve-mounts", "--stdio"))
    for options in ((), ("--plain",)):
        with _mounted(client, view, "--remote", remote, *options):
            assert differences(tree / "dir", view / "dir") == []
            with (view / "sparse").open("rb") as file:
                file.seek(_FAR)
                assert file.read() == b"beyond"
            assert os.statvfs(view).f_bsize == 4096
    kept = sum(path.stat().st_size for path in (client.home / "blocks").iterdir())
    assert kept < 100_000
    assert client.run("images").stdout == Node(client.home.parent / "other").run("images").stdout


def test_a_store_that_is_killed_in_the_middle_of_a_read(store: Node, client: Node, tree: Path) -> None:
    view = client.home.parent.parent / "view"
    remote = _command(store.argv("serve-mounts", "--stdio"))
    with daemon(store) as serving, _mounted(client, view, "--remote", remote), (view / "dir" / "large").open("rb") as f:
        head = f.read(1_000_000)
        serving.kill()
        # The command that is run again finds no daemon, and becomes the home's node itself.
        assert head + f.read() == (tree / "dir" / "large").read_bytes()


def test_tcp_with_a_token_and_a_store_that_comes_back(store: Node, client: Node, tree: Path, tmp_path: Path) -> None:
    view, token = tmp_path / "view", tmp_path / "token"
    with _listening(store, token) as (address, serving):
        assert token.stat().st_mode & 0o777 == 0o600
        port = int(address.rpartition(":")[2])
        view.mkdir()
        (tmp_path / "wrong").write_text("x" * 40)
        (tmp_path / "wrong").chmod(0o600)
        for options, status, words in (
            (("--token-file", str(tmp_path / "wrong")), 4, "token"),
            (("--token-file", str(tmp_path / "none")), 3, "no token file"),
            ((), 4, "needs a token"),
        ):
            done = client.run("mount", "image", str(view), "--remote", address, *options)
            assert (done.returncode, words in done.stderr) == (status, True), done.stderr
        knowing = replace(client, environment={"HYPERNODE_TOKEN": token.read_text()})
        with _mounted(knowing, view, "--remote", address, "--read-deadline", "3"):
            assert (view / "dir" / "small").read_bytes() == b"small"
            end(serving)
            with (view / "dir" / "large").open("rb") as file, pytest.raises(OSError, match=os.strerror(errno.EIO)):
                file.read()
            with _listening(store, token, port):
                content = (tree / "dir" / "large").read_bytes()
                wait_until(lambda: _read(view / "dir" / "large") == content, "reads work again")
    done = client.run("mount", "image", str(view), "--remote", address, "--token-file", str(token))
    assert (done.returncode, "nobody answers" in done.stderr) == (6, True), done.stderr


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


@pytest.mark.real("sshd", "netns", "tc")
def test_ssh(store: Node, client: Node, tree: Path, tmp_path: Path, namespaces: NamespacePair) -> None:
    view, keys, programs = tmp_path / "view", tmp_path / "keys", tmp_path / "programs"
    keys.mkdir()
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)], check=True)
    there, here = programs / "there", programs / "here"
    python = f'cd {TOP} && XDG_STATE_HOME={store.home.parent}/state exec {sys.executable} -m hypernode --no-mdns "$@"'
    _script(there / "hypernode", python)
    (keys / "known").write_text(f"[{namespaces.left.address}]:2222 {(keys / 'host.pub').read_text()}")
    options = f"-o UserKnownHostsFile={keys / 'known'} -o GlobalKnownHostsFile=/dev/null"
    _script(here / "ssh", f'exec {shutil.which("ssh")} -F /dev/null {options} -i "$TEST_KEY" "$@"')
    environment = {"PATH": f"{here}:{os.environ['PATH']}", "TEST_KEY": str(keys / "user")}
    client = replace(client, host=namespaces.right, environment=environment)
    remote = f"ssh://root@{namespaces.left.address}:2222{store.home}"
    with _sshd(namespaces, keys, there) as sshd:
        with _mounted(client, view, "--remote", remote):
            assert differences(tree / "dir", view / "dir") == []
        stranger = replace(client, environment={**environment, "TEST_KEY": str(keys / "stranger")})
        done = stranger.run("mount", "image", str(view), "--remote", remote)
        assert (done.returncode, "Permission denied" in done.stderr) == (6, True), done.stderr
        done = client.run("mount", "nothing", str(view), "--remote", remote)
        assert (done.returncode, "there is no image" in done.stderr) == (4, True), done.stderr
        assert sshd.poll() is None


def _script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@contextmanager
def _sshd(namespaces: NamespacePair, keys: Path, programs: Path) -> Iterator[subprocess.Popen[str]]:
    config = {
        "ListenAddress": f"{namespaces.left.address}:2222",
        "HostKey": keys / "host",
        "AuthorizedKeysFile": keys / "user.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "SetEnv": f"PATH={programs}:{os.environ['PATH']}",
    }
    (keys / "config").write_text("".join(f"{name} {value}\n" for name, value in config.items()))
    # It wants a directory of its own in /run, which is made where nobody else sees it.
    private = f"mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec /usr/sbin/sshd -D -e -f {keys / 'config'}"
    argv = [*namespaces.left.enter, "unshare", "--mount", "sh", "-c", private]
    with running(subprocess.Popen(argv, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "listening" in line, line + process.stderr.read()
        yield process
