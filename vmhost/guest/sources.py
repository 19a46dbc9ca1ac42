"""Which mirror Debian's packages come from: the host's own apt sources, Debian's `main` of them. Pure: text in and out.

Other vendors' repositories are left out, so that the same guest comes out on every host, and so that one of theirs that
is down fails no build. Both of apt's forms are read (sources.list(5)); stanzas are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_LINE: Final = re.compile(
    r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>(?:\s+\S+)*)"
)


@dataclass(frozen=True)
class Source:
    """One stanza: repositories at `uris`, their `suites`; what vouches for them, as apt writes it."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str | None = None  # the path of a key ring, or a key in lines of its own
    trusted: bool = False

    @property
    def debian(self) -> bool:
        return "main" in self.components and any("debian" in uri or uri.startswith("file:") for uri in self.uris)

    def stanza(self) -> str:
        lines = ["Types: deb", f"URIs: {' '.join(self.uris)}", f"Suites: {' '.join(self.suites)}", "Components: main"]
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        if self.trusted:
            lines.append("Trusted: yes")
        return "\n".join(lines) + "\n"


def debian_sources(files: Iterable[tuple[str, str]]) -> list[Source]:
    """Debian's sources in apt's files, given as (name, text); doubles once."""
    found: list[Source] = []
    for name, text in files:
        found += _stanzas(text) if name.endswith(".sources") else _lines(text)
    return [source for source in dict.fromkeys(found) if source.debian]


def _lines(text: str) -> list[Source]:
    found = []
    for line in text.splitlines():
        if match := _LINE.fullmatch(line.partition("#")[0].strip()):
            options = dict(option.partition("=")[::2] for option in (match["options"] or "").split())
            found.append(
                Source(
                    (match["uri"],),
                    (match["suite"],),
                    tuple(match["components"].split()),
                    options.get("signed-by"),
                    options.get("trusted") == "yes",
                )
            )
    return found


def _stanzas(text: str) -> list[Source]:
    found = []
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", plain):
        fields = _fields(stanza)
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes") != "no":
            found.append(
                Source(
                    tuple(fields.get("uris", "").split()),
                    tuple(fields.get("suites", "").split()),
                    tuple(fields.get("components", "").split()),
                    fields.get("signed-by") or None,
                    fields.get("trusted") == "yes",
                )
            )
    return found


def _fields(stanza: str) -> dict[str, str]:
    """Names in lower case; a value keeps the lines that go on with a blank."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1].isspace() and name:
            fields[name] += "\n" + line.rstrip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields
