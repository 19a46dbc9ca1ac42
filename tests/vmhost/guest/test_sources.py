"""Which of a host's apt sources guests are made from."""

from __future__ import annotations

from vmhost.guest.sources import Source, debian_sources

LIST = """
# deb http://mirror.example/debian old main
deb [signed-by=/usr/share/keyrings/d.gpg arch=amd64] http://mirror.example/debian bookworm main contrib
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian-security bookworm-security main # said here
deb https://vendor.example/apt stable main
deb https://download.vendor.example/linux/debian bookworm stable
"""

STANZAS = """
Types: deb deb-src
# a remark
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://mirror.example/debian
Suites: off
Components: main
Enabled: no
"""


def test_debian_is_taken_and_others_are_not() -> None:
    found = debian_sources([("sources.list", LIST)])
    assert found == [
        Source(
            ("http://mirror.example/debian",), ("bookworm",), ("main", "contrib"), "/usr/share/keyrings/d.gpg", False
        ),
        Source(("http://mirror.example/debian-security",), ("bookworm-security",), ("main",)),
    ]


def test_stanzas_keep_a_key_of_several_lines() -> None:
    (source,) = debian_sources([("debian.sources", STANZAS)])
    assert source.suites == ("trixie", "trixie-updates")
    assert "\n .\n abc" in source.stanza()
    assert debian_sources([("again.sources", source.stanza())]) == [source]


def test_doubles_come_once_and_nothing_comes_of_nothing() -> None:
    assert len(debian_sources([("a.list", LIST), ("b.list", LIST)])) == 2
    assert debian_sources([("x.sources", ""), ("y.list", "nonsense\n\x00deb")]) == []
