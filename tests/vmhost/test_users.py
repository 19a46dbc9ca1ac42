"""USER[:GROUP] against an image's own tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlog.errors import Refused
from vmhost.users import ROOT, User, names_root, resolve_user

PASSWD = """root:x:0:0:root:/root:/bin/bash
# a comment:x:1:1::/:/
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
short:x:7
1000:x:5:6:a name made of digits:/home/odd:/bin/sh
broken:x:minus:x::/:
broken-group:x:9:x::/:
"""
GROUP = """root:x:0:
adm:x:4:syslog,www-data
www-data:x:33:www-data
ssl:x:110:www-data,other
bad:x:many:lonely
"""


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", ROOT),
        ("root", ROOT),
        ("0:0", ROOT),
        ("www-data", User(33, 33, (4, 110), "www-data", "/var/www")),
        ("33", User(33, 33, (4, 110), "www-data", "/var/www")),
        ("www-data:adm", User(33, 4, (), "www-data", "/var/www")),
        ("www-data:4", User(33, 4, (), "www-data", "/var/www")),
        ("4242", User(4242, 0, (), None, None)),
        ("4242:4243", User(4242, 4243, (), None, None)),
        ("0:33", User(0, 33, (), "root", "/root")),
        ("1000", User(5, 6, (), "1000", "/home/odd")),  # a name goes before a number
        ("4294967294", User(4294967294, 0, (), None, None)),
    ],
)
def test_resolved(text: str, user: User) -> None:
    assert resolve_user(text, PASSWD, GROUP) == user


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nobody", "no user 'nobody'"),
        ("4294967295", "no user"),
        ("-1", "no user"),
        ("１", "no user"),
        ("99999999999999999999", "no user"),
        ("root:nogroup", "no group 'nogroup'"),
        (":33", "no user ''"),
        ("short", "no user"),
        ("broken", "no user"),
        ("broken-group", "passwd entry of 'broken-group' is broken"),
        ("a\nb", "no user"),
    ],
)
def test_refused(text: str, complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        resolve_user(text, PASSWD, GROUP)


def test_without_tables_only_numbers_and_root_resolve() -> None:
    assert resolve_user("root", "", "") == ROOT
    assert resolve_user("5:6", "", "") == User(5, 6, (), None, None)
    with pytest.raises(Refused):
        resolve_user("www-data", "", "")


@given(st.text(max_size=20), st.text(max_size=60), st.text(max_size=60))
def test_any_text_resolves_within_range_or_is_refused(text: str, passwd: str, group: str) -> None:
    try:
        user = resolve_user(text, passwd, group)
    except Refused:
        return
    assert all(0 <= number < 2**32 - 1 for number in (user.uid, user.gid, *user.groups))
    assert names_root(text) <= user.is_root
