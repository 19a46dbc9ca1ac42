"""What a node that crashed or was killed left mounted: cleared away, but for what running containers still need."""

from __future__ import annotations

import os

from hypernode.claims import Inherited, living_claims
from hypernode.config import Config
from images.removal import remove_tree
from vmhost.errors import MountFailed
from vmhost.mount_syscalls import clear_stale, mounted_at, mounts_under, read_mounts
from vmhost.stale import clear_crashed_run
from vmhost.tree_view import detach_as_user


def clear_leftovers(config: Config) -> Inherited | None:
    """End, unmount and remove what a crashed node left under its run directory. Blocks; the home's lock is held.

    What running containers need stays and is returned, if it can be taken over.
    """
    if not config.run.exists():
        return None
    boots = config.run / "boot"
    claims = living_claims(boots)
    connection = next(filter(None, (claim.holder.fuse_connection() for claim in claims.values())), None)
    if connection is None:
        _clear_all(config)
        return None
    images = {claim.image for claim in claims.values()}
    for place in [*boots.glob("*"), *(config.run / "images").glob("*"), config.incoming]:
        if place not in claims and place.name not in images:
            clear_crashed_run(str(place))
            remove_tree(place)
    return Inherited(connection, claims)


def _clear_all(config: Config) -> None:
    clear_crashed_run(str(config.run))
    if mounts_under(read_mounts(), str(config.run)):
        raise MountFailed(f"something is still mounted under {config.run}", "unmount it, and try again")
    remove_tree(config.run)


def clear_view(config: Config, directory: str) -> None:
    """Unmount a view that a crashed node left at `directory`; what others mounted there meanwhile stays. Blocks."""
    point = mounted_at(directory)
    if point is None:
        return
    if point.filesystem == "erofs" and point.source.startswith((str(config.erofs), "/dev/loop")):
        clear_stale(directory)
    elif point.filesystem == "fuse" and point.source == "hypernode":
        if os.geteuid() == 0:
            clear_stale(directory)
        else:
            detach_as_user(directory)
