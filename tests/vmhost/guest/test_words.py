"""What a guest may be told on its command line."""

from __future__ import annotations

import pytest

from hyperlog.errors import Refused
from vmhost.guest.words import guest_words

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILX8S2cAZ/I2LUrMCGNQ9Fk2YbmFDMx3sVNbBRUEyRYq me@host x"


def test_words_are_those_of_hyperos() -> None:
    assert guest_words("box", KEY + "\n") == ("host=box", f'sshkey="{KEY}"')
    assert guest_words(None, None) == ()


@pytest.mark.parametrize("host", ["", "a b", 'a"b', "-a", "a" * 64, "ä", "a\n"])
def test_odd_names_are_refused(host: str) -> None:
    with pytest.raises(Refused):
        guest_words(host, None)


@pytest.mark.parametrize("key", ["", "ssh-ed25519", KEY + '"', KEY + "\n" + KEY, 'command="x" ' + KEY, KEY[:20]])
def test_odd_keys_are_refused(key: str) -> None:
    with pytest.raises(Refused):
        guest_words(None, key)
