"""Keys and writers through the command line: exported, brought elsewhere, rotated; admitted and dismissed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperlog.errors import Conflict, NotFound, Refused
from hyperlog.ids import to_text
from hyperlog.keys import KeyPair
from hypernode.api.key_requests import AskToWrite, GrantWriter, ImportKey, Keys, RevokeWriter, Writers
from hypernode.api.requests import Share, ShowLog
from tests.support.asking import ask
from tests.support.nodes import Daemon, Node, daemon, running, wait_until

pytestmark = pytest.mark.slow

SECRET = "correct horse battery staple"


def _ok(node: Node, *arguments: str) -> str:
    done = node.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _tree(tmp_path: Path, text: str) -> str:
    tree = tmp_path / f"tree {text}"
    tree.mkdir()
    (tree / "file").write_text(text)
    return str(tree)


def _states(node: Node, link: str) -> dict[str, str]:
    return {writer["key"]: writer["state"] for writer in ask(node, Writers(link))["writers"]}


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[tuple[Daemon, str]]:
    """A daemon that owns an image of one version."""
    with daemon(Node(tmp_path / "owner")) as serving:
        yield serving, str(ask(serving.node, Share(_tree(tmp_path, "one"), name="web"))["link"])


def test_a_writer_is_admitted_publishes_and_is_dismissed(owner: tuple[Daemon, str], tmp_path: Path) -> None:
    serving, link = owner
    with daemon(Node(tmp_path / "writer")) as other:
        key = _ok(other.node, "writers", "ask", link, *serving.peers)
        assert ask(other.node, AskToWrite(link))["key"] == key, "asking twice makes one key"
        with pytest.raises(Refused) as told:
            ask(other.node, Share(_tree(tmp_path, "early"), update=link))
        assert "--refresh" in str(told.value.hint), "its key may have been admitted meanwhile"
        assert "may write" in _ok(serving.node, "writers", "grant", link, key, "--label", "build machine")
        with pytest.raises(Conflict, match="already"):
            ask(serving.node, GrantWriter(link, key))
        wait_until(lambda: _states(other.node, link).get(key) == "admitted", "the grant has arrived")
        assert ask(other.node, Share(_tree(tmp_path, "two"), update=link))["version"] == 2
        wait_until(lambda: len(ask(serving.node, ShowLog(link))["versions"]) == 2, "the version has arrived")
        rows = json.loads(_ok(serving.node, "writers", "ls", link, "--json"))["writers"]
        assert [(row["state"], row["entries"], row["label"], row["is_here"]) for row in rows] == [
            ("owner", 2, "", True),
            ("writer", 1, "build machine", False),
        ]
        with pytest.raises(Refused):
            ask(other.node, GrantWriter(link, to_text(KeyPair.generate().public)))

        assert "entries of it that count: 1" in _ok(serving.node, "writers", "revoke", link, key, "--reason", "stolen")
        wait_until(lambda: _states(other.node, link).get(key) == "dismissed", "the dismissal has arrived")
        with pytest.raises(Refused) as told:
            ask(other.node, Share(_tree(tmp_path, "late"), update=link))
        assert "fork" in str(told.value.hint)
        with pytest.raises(Refused, match="dismissed"):
            ask(serving.node, GrantWriter(link, key))
        with pytest.raises(Conflict):
            ask(serving.node, RevokeWriter(link, key))
        with pytest.raises(NotFound):
            ask(serving.node, RevokeWriter(link, to_text(KeyPair.generate().public)))
        assert len(ask(serving.node, ShowLog(link))["versions"]) == 2, "what was published before stays"


def test_a_key_moves_to_another_home_and_is_rotated_there(owner: tuple[Daemon, str], tmp_path: Path) -> None:
    serving, link = owner
    secret = tmp_path / "passphrase"
    secret.write_text(f"{SECRET}\n")
    assert serving.node.run("keys", "export", link, "--passphrase-file", str(secret)).returncode == 4, "others read it"
    secret.chmod(0o600)
    exported = tmp_path / "web.key"
    _ok(serving.node, "keys", "export", link, "--passphrase-file", str(secret), "--output", str(exported))
    assert exported.stat().st_mode & 0o777 == 0o600
    before = exported.read_bytes()
    again = serving.node.run("keys", "export", link, "--passphrase-file", str(secret), "--output", str(exported))
    assert (again.returncode, exported.read_bytes()) == (4, before), "a file that is there was written over"

    text = before.decode()
    with daemon(Node(tmp_path / "new")) as other:
        for damaged, kind in ((text[:-20], "corrupt"), (text[: len(link) + 1], "refused"), ("", "refused")):
            with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is said by its code
                ask(other.node, ImportKey(damaged, SECRET))
            assert getattr(caught.value, "code", None) == kind
        with pytest.raises(Refused, match="passphrase is wrong"):
            ask(other.node, ImportKey(text, "another"))
        assert ask(other.node, Keys())["keys"] == []
        read_end, write_end = os.pipe()
        os.write(write_end, f"{SECRET}\n".encode())
        os.close(write_end)
        options = ("keys", "import", str(exported), "--passphrase-fd", str(read_end))
        with running(other.node.start(*options, pass_fds=(read_end,))) as process:
            os.close(read_end)
            out, err = process.communicate(timeout=120)
        assert (process.returncode, out.strip()) == (0, link), err
        with pytest.raises(Conflict, match="this very key"):
            ask(other.node, ImportKey(text, SECRET))
        own: dict[str, Any] = ask(other.node, Keys())["keys"][0]
        assert own["link"] == link

        _ok(other.node, "log", link, *serving.peers, "--refresh")
        new = _ok(other.node, "keys", "rotate", link)
        assert ask(other.node, Share(_tree(tmp_path, "three"), update=link))["version"] == 2
        wait_until(lambda: _states(serving.node, link).get(new) == "owner", "the rotation has arrived")
        with pytest.raises(Refused):
            ask(serving.node, Share(_tree(tmp_path, "stale"), update=link))
        with pytest.raises(Conflict, match="another key"):
            ask(other.node, ImportKey(text, SECRET))
        assert new in _ok(other.node, "keys", "ls")


def test_no_passphrase_no_secret(owner: tuple[Daemon, str], tmp_path: Path) -> None:
    serving, link = owner
    assert SECRET not in repr(ImportKey("x", SECRET))
    empty = tmp_path / "empty"
    empty.touch(0o600)
    for options, status in (
        (("--passphrase-file", str(empty)), 4),
        (("--passphrase-file", str(tmp_path / "absent")), 3),
        (("--passphrase-fd", "77"), 4),
    ):
        done = serving.node.run("keys", "export", link, *options)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        assert "hint" in done.stderr
        assert "Traceback" not in done.stderr
    with running(serving.node.start("keys", "export", link, start_new_session=True)) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (4, "")
    assert "no terminal" in err
