"""Ids and names of containers, as Docker's: 64 hexadecimal digits, and an adjective with somebody of the field."""

from __future__ import annotations

import os
import re
import secrets
from typing import Final

from hyperlog.errors import Refused

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_ADJECTIVES: Final = """
able agile brave bright calm clever cosy daring eager earnest fair fond gentle glad happy honest jolly keen kind lively
loyal lucid mellow merry modest nimble patient proud quick quiet ready serene sharp steady sunny swift tender tidy
upbeat vivid warm wise witty zealous
"""
_SURNAMES: Final = """
allen babbage backus borg cerf church codd cray curie diffie dijkstra engelbart erdos floyd gauss goedel goldberg
hamilton hamming hellman hoare hopper johnson kay knuth lamport liskov lovelace mccarthy merkle naur neumann noether
perlman postel ritchie rivest shamir shannon sutherland tarjan thompson torvalds turing wirth
"""


def new_id() -> str:
    return os.urandom(32).hex()


def random_name(taken: set[str]) -> str:
    """One that is not `taken`."""
    while True:
        name = f"{secrets.choice(_ADJECTIVES.split())}_{secrets.choice(_SURNAMES.split())}"
        if name in taken:
            name += str(secrets.randbelow(10_000))
        if name not in taken:
            return name


def check_name(name: str) -> str:
    """The name. Raises `Refused`."""
    if not _NAME.fullmatch(name):
        raise Refused(f"{name!r} is no name of a container", "letters, digits, _ . and -, up to 128, no leading sign")
    return name
