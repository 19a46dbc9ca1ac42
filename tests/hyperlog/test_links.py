"""Ids as people read them, and links."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlog.errors import Refused
from hyperlog.ids import LogKey, discovery_key, from_text, to_text
from hyperlog.limits import LINK_PEERS_MAX
from hyperlog.link import Link, parse_link

_KEY = LogKey(bytes(range(32)))
_TEXT = to_text(_KEY)
_IDS = st.binary(min_size=32, max_size=32)


def test_the_text_of_an_id_never_changes() -> None:
    assert to_text(bytes(32)) == "y" * 52
    assert to_text(b"\xff" * 32) == "9" * 51 + "o"
    assert _TEXT == "yyyoryarywdyqnyjbefoadeqbhebnrounoktcfaadrpbs8y7daxo"
    assert from_text(_TEXT) == _KEY


@given(identifier=_IDS)
def test_an_id_comes_back_from_its_text(identifier: bytes) -> None:
    text = to_text(identifier)
    assert len(text) == 52
    assert from_text(text) == identifier


@given(identifier=_IDS, place=st.integers(0, 51), character=st.characters(max_codepoint=300))
def test_another_character_is_another_id_or_none(identifier: bytes, place: int, character: str) -> None:
    text = to_text(identifier)
    changed = text[:place] + character + text[place + 1 :]
    try:
        found = from_text(changed)
    except Refused:
        assert changed != text
    else:
        assert to_text(found) == changed


@pytest.mark.parametrize("text", ["", "y" * 51, "y" * 53, "Y" * 52, "l" * 52, "y" * 51 + "b", bytes(32).hex()])
def test_odd_texts_are_refused(text: str) -> None:
    with pytest.raises(Refused):
        from_text(text)


def test_the_discovery_key_of_a_log_never_changes() -> None:
    assert discovery_key(_KEY).hex() == "e84f779b806f3eaaa35f1919cd6eebc84399e2a536e819991db2ea5d3a042e62"


@given(
    key=_IDS,
    version=st.none() | st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._+-]{0,40}\Z"),
    peers=st.lists(st.from_regex(r"\A/[ -~]{1,60}\Z"), max_size=5, unique=True),
)
def test_a_link_comes_back_from_its_text(key: bytes, version: str | None, peers: list[str]) -> None:
    link = Link(LogKey(key), version, tuple(peers))
    assert parse_link(link.text) == link


@pytest.mark.parametrize("text", [_TEXT, f"hyper://{_TEXT}", f" HYPER://{_TEXT}/\n", f"hyper://{_TEXT}?"])
def test_plain_ways_to_write_a_link(text: str) -> None:
    assert parse_link(text) == Link(_KEY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "malformed link"),
        ("http://example.org", "not a hyper:// link"),
        (f"hyper://{_TEXT[:-1]}", "52 characters, this one 51"),
        (f"hyper://{_TEXT}@", "malformed version"),
        (f"hyper://{_TEXT}@-x", "malformed version"),
        (f"hyper://{_TEXT}@a b", "malformed version"),
        (f"hyper://{_TEXT}?x=1", "unknown option"),
        (f"hyper://{_TEXT}?peer=example.org", "not a multiaddr"),
        (f"hyper://{_TEXT}?peer=/a%0a", "not a multiaddr"),
        (f"hyper://{_TEXT}?" + "&".join(f"peer=/{n}" for n in range(LINK_PEERS_MAX + 1)), "at most 32"),
        ("hyper://" + "y" * 9000, "at most 8192"),
    ],
)
def test_a_wrong_link_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        parse_link(text)


def test_control_characters_of_a_link_do_not_reach_the_terminal() -> None:
    with pytest.raises(Refused) as caught:
        parse_link("hyper://\x1b[31mred")
    assert "\x1b" not in caught.value.message
