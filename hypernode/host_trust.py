"""Whether a container may run on this host itself; what stands between them is told in isolation.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hypernode.errors import Untrusted

TRUST_HINT: Final = "if you trust who made it, say --trust, or `hypernode pin` it"


def check_host_trust(ready: Mapping[str, Any], *, trusted: bool) -> None:
    """For a container on this host. Raises `Untrusted`."""
    if not (trusted or ready["known"] or ready["users"] is not None):
        raise Untrusted(
            "this host cannot give a container users of its own, and root in it could reach the host", TRUST_HINT
        )
