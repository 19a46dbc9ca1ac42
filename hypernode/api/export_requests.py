"""The request that hands a version out to other tools (part of the closed set in requests.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Export:
    """Write a version to `target`, fetching what is missing. Events: `stage`, `progress`, `note`.

    `form` is oci (folder, or tar if the target ends in .tar), docker-archive, tar, dir, or push (then the target is
    docker://REF). `ref` names the image in what is written.
    """

    op: ClassVar[str] = "export"
    link: str
    form: str
    target: str
    ref: str | None = None
    peers: tuple[str, ...] = ()
    refresh: bool = False
    insecure: bool = False
    auth_file: str | None = None
