"""What a container that runs needs of the next node, should this one be killed.

A claim is a small file beside the container's writable layer, written once all is mounted and gone when that is
undone. Its holder is the command that runs the container, which also holds the FUSE connection (vmhost/lifeline.py).
When a node starts and finds claims with a living holder, it takes the mounts over instead of clearing them away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vmhost.lifeline import LivingProcess

_NAME: Final = "claim.json"
_BYTES_MAX: Final = 65536


@dataclass(frozen=True, slots=True)
class Claim:
    """One container. `nodes`: its image's blobs by name, with their FUSE node ids, none if it is a plain file; `link`
    has the exact version."""

    holder: LivingProcess
    link: str
    image: str
    nodes: Mapping[str, int]
    read_deadline: float
    volume: str | None


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a killed node left in use: the connection of its FUSE mount, and by the containers' places their claims."""

    connection: int
    claims: Mapping[Path, Claim]


def claim_path(root: str) -> Path:
    """Where the claim of the container with this root lies."""
    return Path(root).parent / _NAME


def write_claim(root: str, claim: Claim) -> None:
    """Whole or not at all, though not durable: with the host everything ends that it is about."""
    path = claim_path(root)
    fields = {
        "pid": claim.holder.pid,
        "started": claim.holder.started,
        "link": claim.link,
        "image": claim.image,
        "nodes": dict(claim.nodes),
        "read_deadline": claim.read_deadline,
        "volume": claim.volume,
    }
    new = path.with_suffix(".new")
    new.write_text(json.dumps(fields), encoding="ascii")
    new.replace(path)


def living_claims(boots: Path) -> dict[Path, Claim]:
    """The claims under `boots` whose holders live, by the directory they lie in."""
    found = {}
    for path in sorted(boots.glob(f"*/{_NAME}")):
        claim = _read(path)
        if claim is not None and claim.holder.is_alive():
            found[path.parent] = claim
    return found


def _read(path: Path) -> Claim | None:
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(_BYTES_MAX))
        return Claim(
            holder=LivingProcess(int(fields["pid"]), int(fields["started"])),
            link=str(fields["link"]),
            image=str(fields["image"]),
            nodes={str(name): int(node) for name, node in fields["nodes"].items()},
            read_deadline=float(fields["read_deadline"]),
            volume=None if fields["volume"] is None else str(fields["volume"]),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # damaged: its container is cleared away as one without a claim
