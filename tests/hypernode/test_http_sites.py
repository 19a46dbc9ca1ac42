"""Where HTTP may be served, and who may ask there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyperlog.errors import Refused
from hypernode.http.guard import judge
from hypernode.http.sites import make_site, parse_http_address, read_token

TOKEN = "a-token-of-some-length"
OPEN = frozenset({"/healthz"})


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", "127.0.0.1:8080"),
        ("localhost:1", "127.0.0.1:1"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.8.0.1:65535", "127.8.0.1:65535"),
        ("[::1]:80", "[::1]:80"),
    ],
)
def test_loopback_addresses_need_no_certificate(text: str, address: str) -> None:
    setup = make_site(text, None, None)
    assert setup.address.text == address
    assert setup.tls is None


@pytest.mark.parametrize("text", ["0.0.0.0:80", "[::]:80", "192.0.2.7:8443", "[2001:db8::1]:1", "169.254.1.1:1"])
def test_other_addresses_do(text: str) -> None:
    with pytest.raises(Refused, match="needs TLS"):
        make_site(text, None, None)


@pytest.mark.parametrize(
    "text",
    ["", "host:80", "127.0.0.1", "127.0.0.1:", ":80", "::1:80", "1.2.3:1", "127.0.0.1:65536", "[zz]:1", "1" * 99],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        parse_http_address(text)


def test_certificate_and_key_come_together_and_must_be_usable(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="belong together"):
        make_site("8080", tmp_path, None)
    with pytest.raises(Refused, match="cannot be used"):
        make_site("8080", tmp_path / "absent", tmp_path / "absent")
    (tmp_path / "no.pem").write_text("nonsense")
    with pytest.raises(Refused, match="cannot be used"):
        make_site("8080", tmp_path / "no.pem", tmp_path / "no.pem")


def test_a_token_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "http-token"
    with pytest.raises(Refused, match="cannot be used"):
        read_token(path, make=False)
    token = read_token(path, make=True)
    assert len(token) > 40
    assert read_token(path, make=True) == read_token(path, make=False) == token
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(Refused, match="others can read"):
        read_token(path, make=True)


@pytest.mark.parametrize("text", ["", "short", "a b" * 20, "x" * 1000, "ümläut" * 10, "new\nline" * 8])
def test_what_is_no_token_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(Refused) as caught:
        read_token(path, make=False)
    assert not text or text not in str(caught.value)


def test_a_fifo_is_no_token_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token", 0o600)
    with pytest.raises(Refused):
        read_token(tmp_path / "token", make=False)


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({"host": "localhost:80"}, "/healthz", None),
        ({"host": "localhost:80"}, "/v1", 401),
        ({"host": "localhost", "authorization": f"Bearer {TOKEN}"}, "/v1", None),
        ({"host": "LOCALHOST", "authorization": f"bearer  {TOKEN} "}, "/v1", None),
        ({"host": "[::1]:7", "authorization": f"Bearer {TOKEN}"}, "/v1", None),
        ({"host": "localhost", "authorization": f"Basic {TOKEN}"}, "/v1", 401),
        ({"host": "localhost", "authorization": f"Bearer {TOKEN}x"}, "/v1", 401),
        ({"host": "localhost", "authorization": "Bearer"}, "/v1", 401),
        ({"host": "localhost", "authorization": "Bearer \xff"}, "/v1", 401),
        # a page whose name was made to mean this host
        ({"host": "evil.example", "authorization": f"Bearer {TOKEN}"}, "/v1", 421),
        ({"host": "evil.example"}, "/healthz", 421),
        ({"host": "127.0.0.1.evil.example:80"}, "/healthz", 421),
        ({"host": ""}, "/healthz", 421),
        # a page that asks across origins
        ({"host": "localhost:80", "origin": "http://localhost:80"}, "/healthz", None),
        ({"host": "localhost:80", "origin": "http://localhost:81"}, "/healthz", 403),
        ({"host": "localhost:80", "origin": "https://localhost:80"}, "/healthz", 403),
        ({"host": "localhost:80", "origin": "null"}, "/healthz", 403),
        ({"host": "localhost", "sec-fetch-site": "cross-site", "authorization": f"Bearer {TOKEN}"}, "/v1", 403),
        ({"host": "localhost", "sec-fetch-site": "same-origin", "authorization": f"Bearer {TOKEN}"}, "/v1", None),
    ],
)
def test_who_may_ask(headers: dict[str, str], path: str, status: int | None) -> None:
    spelled = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    refusal = judge(spelled, "http", path, TOKEN, OPEN)
    assert (refusal and refusal[0]) == status
    assert TOKEN not in str(refusal)


def test_with_a_certificate_any_name_will_do() -> None:
    assert judge({b"host": b"node.example"}, "https", "/healthz", TOKEN, OPEN) is None
    assert judge({b"host": b"node.example", b"origin": b"https://evil.example"}, "https", "/", None, OPEN) == (
        403,
        "a page of another origin asks",
    )
