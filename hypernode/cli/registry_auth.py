"""Credentials for registries: from a file that podman, docker and skopeo share, or from the environment.

The node runs skopeo, and may be another process of another time; so it is told a file. A password in our environment
becomes such a file, which only we may read and which goes with the command.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from hyperlog.errors import NotFound, Refused

_SCHEME = "docker://"
_USER = "HYPERNODE_REGISTRY_USER"
_PASSWORD = "HYPERNODE_REGISTRY_PASSWORD"


def is_reference(source: str) -> bool:
    """Whether it names something in a registry."""
    return source.startswith(_SCHEME)


@contextmanager
def registry_auth(reference: str, file: str | None) -> Iterator[str | None]:
    """An auth file for `reference`: `file`, else one made of the environment, else what REGISTRY_AUTH_FILE names.

    None leaves it to the program's own default. Raises `NotFound`, `Refused`.
    """
    user, password = os.environ.get(_USER), os.environ.get(_PASSWORD)
    if file is None and user and password and is_reference(reference):
        with tempfile.NamedTemporaryFile("w", prefix="hypernode-auth-") as made:  # mode 0600
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            json.dump({"auths": {_registry(reference): {"auth": token}}}, made)
            made.flush()
            yield made.name
        return
    named = file or os.environ.get("REGISTRY_AUTH_FILE") or None
    if named is not None and not os.path.isfile(named):
        raise NotFound(f"there is no auth file {named}", "`skopeo login --authfile FILE REGISTRY` makes one")
    yield None if named is None else os.path.abspath(named)


def _registry(reference: str) -> str:
    host, slash, _ = reference.removeprefix(_SCHEME).partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        raise Refused(f"{reference} does not name its registry, so {_USER} is for nobody", "docker://REGISTRY/NAME")
    return host
