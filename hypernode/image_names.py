"""Names of images in requests: `web`, `web@3`, `web:/etc` mean the image that this home calls so.

Names are those that the people of this home gave (`share --name`, `fork --name`). What authors elsewhere call their
images is theirs to change, so it never chooses what is run here. A link is a link, whatever anything is called.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Final, TypeVar, cast

from hyperlog.errors import Conflict, NotFound
from hyperlog.ids import ID_CHARACTERS
from hyperlog.link import printable
from hypernode.api.network_requests import Diagnose
from hypernode.api.requests import Mount, Request, Share

_LINKS: Final = frozenset({"link", "update", "old", "new"})
_PLACES: Final = frozenset({"place"})
_HEAD: Final = re.compile(r"[^@?:/]*")

R = TypeVar("R", bound=Request)


def names_image(request: Request) -> bool:
    """Whether it is about one image, so that names are read, and may have changed when it is done."""
    return isinstance(request, Share) or any(
        field.name in _LINKS | _PLACES or field.name == "volume" for field in dataclasses.fields(request)
    )


def with_links(request: R, images: Sequence[tuple[str, str | None]]) -> R:
    """`request` with links where it has names; `images` has (link, name) of each. Raises `NotFound`, `Conflict`."""
    if isinstance(request, Mount) and request.remote is not None:
        return request  # the store there has names of its own
    found = {}
    for field in dataclasses.fields(request):
        text = getattr(request, field.name)
        if isinstance(text, str) and field.name in _LINKS | _PLACES:
            try:
                found[field.name] = as_link(text, images, is_place=field.name in _PLACES)
            except NotFound:
                if not isinstance(request, Diagnose):  # which tells of it among all that it finds
                    raise
    return cast(R, dataclasses.replace(cast(Any, request), **found)) if found else request


def as_link(text: str, images: Sequence[tuple[str, str | None]], *, is_place: bool = False) -> str:
    """The link that `text` is, or that the name in it stands for; what follows the name stays."""
    head = _HEAD.match(text.strip())
    if "://" in text or head is None or len(head[0]) == ID_CHARACTERS:
        return text
    ends = "@?:" if is_place else "@?"
    meant = [(name, link) for link, name in images if name and (text == name or _goes_on(text, name, ends))]
    longest = max((len(name) for name, _ in meant), default=0)
    links = {link for name, link in meant if len(name) == longest}
    if not links:
        raise NotFound(
            f"no image of this home is called {printable(text)}",
            "`hypernode images` lists what is here; `hypernode share docker://IMAGE` brings one from a registry;"
            " a link looks like hyper://KEY, with 52 characters as KEY",
        )
    if len(links) > 1:
        raise Conflict(f"{len(links)} images of this home are called {printable(text[:longest])}", "use a link instead")
    return links.pop() + text[longest:]


def _goes_on(text: str, name: str, ends: str) -> bool:
    return text.startswith(name) and text[len(name)] in ends if len(text) > len(name) else False
