"""Where a site listens, with which certificate, and who may ask: read and judged before anything is opened.

A loopback address may go without TLS. Everybody on this host can reach it, containers with the host's network too, and
the API reads and writes any file as the node's user: so the token is asked for there as well. Any other address needs
a certificate, or the token would cross the network in the clear.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from hyperlog.errors import Refused
from hypernode.http.limits import BACKLOG, TOKEN_BYTES, TOKEN_CHARS_MAX, TOKEN_CHARS_MIN
from hypernode.http.server import Application, serve_http
from hypernode.logs import hide

_ADDRESS: Final = re.compile(r"(?:(\[[0-9a-fA-F:.]{2,45}\]|[0-9.]{7,15}|localhost):)?([0-9]{1,5})")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # what may follow "Bearer" (RFC 6750)


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address and a port; 0: any free one."""

    host: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    @property
    def text(self) -> str:
        """As URLs have it."""
        host = f"[{self.host}]" if self.host.version == 6 else str(self.host)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SiteSetup:
    """A site that may be opened."""

    address: Address
    tls: ssl.SSLContext | None

    def url(self, port: int) -> str:
        """Where it is, once it listens on `port`."""
        return f"{'https' if self.tls else 'http'}://{Address(self.address.host, port).text}"


def parse_http_address(text: str) -> Address:
    """127.0.0.1:8080, [::1]:8080, localhost:8080, or a port alone on 127.0.0.1. Raises `Refused`."""
    match = _ADDRESS.fullmatch(text.strip())
    hint = "127.0.0.1:8080, [::1]:8080, localhost:8080 or 8080"
    if match is None or int(match[2]) > 65535:
        raise Refused(f"{text[:64]!r} is no address to serve HTTP at", hint)
    host = (match[1] or "127.0.0.1").strip("[]")
    try:
        return Address(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host), int(match[2]))
    except ValueError:
        raise Refused(f"{text[:64]!r} is no address to serve HTTP at", hint) from None


def make_site(address: str, certificate: Path | None, key: Path | None) -> SiteSetup:
    """What was asked for, if it is safe and the certificate is usable. Raises `Refused`."""
    parsed = parse_http_address(address)
    if (certificate is None) != (key is None):
        raise Refused("a certificate and its key belong together", "give --http-cert and --http-key")
    if certificate is None or key is None:
        if not parsed.host.is_loopback:
            raise Refused(
                f"{parsed.text} can be reached from elsewhere, so HTTP there needs TLS",
                "give --http-cert and --http-key, or serve on 127.0.0.1 and tunnel",
            )
        return SiteSetup(parsed, None)
    return SiteSetup(parsed, _tls(certificate, key))


def _tls(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise Refused(
            f"the certificate {certificate} and its key {key} cannot be used: {_words(error)}",
            "both in PEM, the key without a password",
        ) from None
    return context


def _words(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _no_password() -> str:
    raise ValueError("the key has a password")  # else OpenSSL would ask the terminal


def read_token(path: Path, *, make: bool) -> str:
    """The bearer token in `path`; with `make`, a new one if there is no file. Raises `Refused`."""
    try:
        if make and not path.exists():
            _write_new(path, secrets.token_urlsafe(TOKEN_BYTES))
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # never wait on a fifo
        with open(descriptor, encoding="ascii") as file:
            mode = os.fstat(descriptor).st_mode
            text = file.read(4 * TOKEN_CHARS_MAX).strip()
    except (OSError, ValueError) as error:
        raise Refused(f"the token in {path} cannot be used: {_words(error)}") from None
    if mode & 0o077:
        raise Refused(f"others can read the token in {path}", f"chmod 600 {path}")
    if not TOKEN_CHARS_MIN <= len(text) <= TOKEN_CHARS_MAX or not _TOKEN.fullmatch(text):
        raise Refused(
            f"what is in {path} is no token",
            f"{TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} letters, digits and ._~+/-, such as: openssl rand -base64 32",
        )
    hide(text)
    return text


def _write_new(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


async def serve_site(
    setup: SiteSetup, app: Application, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve `app` until cancelled; started with the site's URL. Raises `Refused` when the address cannot be had."""
    family = trio.socket.AF_INET6 if setup.address.host.version == 6 else trio.socket.AF_INET
    raw = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    with raw:
        raw.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        try:
            await raw.bind((str(setup.address.host), setup.address.port))
        except OSError as error:
            raise Refused(
                f"HTTP cannot be served at {setup.address.text}: {error.strerror}",
                "choose another port, or 0 for any that is free",
            ) from None
        raw.listen(BACKLOG)
        url = setup.url(int(raw.getsockname()[1]))
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_http, trio.SocketListener(raw), app, setup.tls)
            task_status.started(url)
