"""Who a program runs as: `USER[:GROUP]` of an image's configuration, against the image's own passwd and group files.

nspawn's --user needs /usr/bin/getent in the image, which small images lack; so names are resolved here, by the rules
that container runtimes share: names or numbers, a number needs no entry, without a group the passwd entry's counts
(0 if there is none), and then also the groups that list the user. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from hyperlog.errors import Refused
from vmhost.idmap import UserRange

_ID_MAX: Final = 2**32 - 2  # the last one means "unchanged"


@dataclass(frozen=True, slots=True)
class User:
    """A resolved user. `name` and `home` are None without a passwd entry."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str | None
    home: str | None

    @property
    def is_root(self) -> bool:
        return self.uid == 0 and self.gid == 0 and not self.groups


ROOT: Final = User(uid=0, gid=0, groups=(), name="root", home="/root")


def outside(user: User, users: UserRange | None) -> User:
    """Who that is on the host."""
    return user if users is None else replace(user, uid=users.base + user.uid, gid=users.base + user.gid)


def names_root(text: str) -> bool:
    """Whether it means root in every image, so that no file of the image need be read."""
    return text in ("", "0", "root", "0:0", "root:root")


def resolve_user(text: str, passwd: str, group: str) -> User:
    """`USER[:GROUP]` with the texts of /etc/passwd and /etc/group (empty where missing). Raises Refused."""
    if names_root(text):
        return ROOT
    user_text, _, group_text = text.partition(":")
    entry = next((row for row in _rows(passwd, 6) if user_text in (row[0], row[2])), None)
    uid = _number(entry[2] if entry else user_text, f"the image has no user {user_text!r}")
    name, home = (entry[0], entry[5]) if entry else (None, None)
    if group_text:
        return User(uid, _group_id(group_text, group), (), name, home)
    gid = _number(entry[3], f"the image's passwd entry of {user_text!r} is broken") if entry else 0
    member_of = {
        _number(row[2], f"the image's group entry of {row[0]!r} is broken")
        for row in _rows(group, 4)
        if name is not None and name in row[3].split(",")
    }
    return User(uid, gid, tuple(sorted(member_of - {gid})), name, home)


def _group_id(text: str, group: str) -> int:
    entry = next((row for row in _rows(group, 3) if text in (row[0], row[2])), None)
    return _number(entry[2] if entry else text, f"the image has no group {text!r}")


def _rows(table: str, columns: int) -> Iterator[list[str]]:
    for line in table.splitlines():
        row = line.split(":")
        if len(row) >= columns and not line.startswith("#"):
            yield row


def _number(text: str, otherwise: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > _ID_MAX:
        raise Refused(otherwise, hint="see the image's /etc/passwd and /etc/group")
    return int(text)
