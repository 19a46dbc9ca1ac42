"""What people get wrong at a terminal, and what they must be told: a table for the test and for bench/cli_errors.py.

Words in braces are filled in by `Stage`: a home with one small image in it, and odd files.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.nodes import Node, daemon

SECRET: Final = "s3cr3t-s3cr3t-s3cr3t-s3cr3t"
"""Stands in files and variables that hold secrets; nothing that is printed may have it."""
_STRANGER: Final = "hyper://8m7771qsxss56kyobodxdrtb4n7i1hr8u4wpmyzajctgn7fbjqgo"


@dataclass(frozen=True)
class Fault:
    """A command line, the exit status, and words of the message."""

    line: str
    status: int
    words: str
    environment: Mapping[str, str] = field(default_factory=dict)


FAULTS: Final = (
    # what is named is not there, or not so
    Fault("show {link}@9", 3, "no version '9'"),
    Fault("show web", 3, "no image of this home is called 'web'"),
    Fault("boot web@2", 125, "no image of this home is called 'web@2'"),
    Fault("show hyper://short", 4, "a key has 52 characters"),
    Fault("boot {link} --keep ../x", 125, "a volume's name has"),
    Fault("boot {link} --peer example.com", 125, "not a peer address"),
    Fault("boot {link} -it", 125, "it has none"),
    Fault("ls {link}:/nope", 3, "has no '/nope'"),
    Fault("cat {link}", 4, "no file is named"),
    Fault("volume rm nope", 3, "no volume nope"),
    Fault("tag {link} bad/tag", 4, "a tag has"),
    Fault(f"tag {_STRANGER} x", 3, "no log"),
    # files and directories
    Fault("checkout {link} {top}/full", 5, "not an empty directory"),
    Fault("export {link}", 4, "exactly one of"),
    Fault("export {link} --tar {top}/file", 5, "exists already"),
    Fault("mount {link} {top}/full", 4, "not empty"),
    Fault("share {top}/fifo", 4, ""),
    Fault("share {top}/file", 7, "cut short"),
    Fault("share {top}/full --cmd '", 4, "No closing quotation"),
    # the home
    Fault("--home {top}/file images", 4, "cannot be used as a home"),
    Fault("--home {top}/file boot {link}", 125, "cannot be used as a home"),
    Fault("--home {empty} images", 4, "this is no path"),
    Fault("--home {empty} boot {link}", 125, "this is no path"),
    # settings
    Fault("--config {top}/none.toml images", 3, "no configuration file"),
    Fault("--config {top}/bad.toml images", 4, "bad.toml:2: "),
    Fault("--config {top}/unknown.toml boot {link}", 125, "unknown.toml:1: there is no setting 'mnds'"),
    Fault("--config {top}/negative.toml daemon", 4, "negative.toml:1: upload-limit: "),
    Fault("images", 4, "HYPERNODE_DHT: 'maybe'", {"HYPERNODE_DHT": "maybe"}),
    Fault("daemon --budget 0", 4, "--budget: "),
    Fault(f"--config {{top}}/new.toml config set http-token {SECRET}", 4, "http-token names a file"),
    # addresses and ports
    Fault("daemon --listen nonsense", 4, "not an address to listen on"),
    Fault("daemon --listen /ip4/127.0.0.1/tcp/{taken}", 6, "cannot listen"),
    Fault("--bootstrap 192.0.2.7:4001 images", 4, "--bootstrap: "),
    Fault("serve-mounts --listen 127.0.0.1:{taken} --token-file {top}/token", 4, "cannot listen on"),
    Fault("serve-mounts", 4, "either --stdio or --listen"),
    # secrets
    Fault("--swarm-key {top}/short.key status", 7, "instead of 32"),
    Fault("--swarm-key {top}/open.key status", 4, "open to others"),
    Fault("--swarm-key {top}/none.key status", 3, "no secret key"),
    Fault("mount --remote tcp://127.0.0.1:9 x {top}/empty --token-file {top}/open.key", 4, "can be read by others"),
    Fault("mount --remote tcp://127.0.0.1:9 x {top}/empty", 6, "", {"HYPERNODE_TOKEN": SECRET}),
    Fault("mount --remote tcp://127.0.0.1:9 x {top}/empty", 4, "token", {"HYPERNODE_TOKEN": SECRET[:5]}),
    # wrong usage
    Fault("boots", 2, "no such command"),
    Fault("boot", 2, "missing argument"),
    # odd surroundings
    Fault("show {link}@9", 3, "no version '9'", {"LC_ALL": "C", "TERM": "", "COLUMNS": "1", "PYTHONUTF8": "0"}),
    Fault("ls {link}:/\x1b[31m", 3, "has no"),
)


@dataclass(frozen=True)
class Stage:
    """Where the faults are played."""

    node: Node
    words: Mapping[str, str]

    def argv(self, fault: Fault) -> list[str]:
        """The command's words."""
        return [word.format(**self.words) for word in fault.line.split(" ")]


def make_stage(top: Path, taken: socket.socket) -> Stage:
    """A home with an image, and files to stumble over. `taken` listens on a port."""
    for folder in ("full", "empty"):
        (top / folder).mkdir()
    (top / "full/file").write_text("content")
    (top / "file").write_text("no image")
    os.mkfifo(top / "fifo")
    for name, text, mode in (
        ("short.key", SECRET, 0o600),
        ("open.key", SECRET + "12345", 0o644),
        ("token", SECRET, 0o600),
    ):
        (top / name).write_text(text)
        (top / name).chmod(mode)
    (top / "bad.toml").write_text("mdns = false\ndht = maybe\n")
    (top / "unknown.toml").write_text("mnds = false\n")
    (top / "negative.toml").write_text("upload-limit = -1\n")
    node = Node(top / "home")
    with daemon(node):
        done = node.run("share", str(top / "full"))
    assert done.returncode == 0, done.stderr
    port = str(taken.getsockname()[1])
    words = {"link": done.stdout.strip(), "top": str(top), "taken": port, "empty": ""}
    return Stage(node, words)
