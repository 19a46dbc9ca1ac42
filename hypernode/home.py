"""Where images are kept when nobody says otherwise. Imports nothing that takes time: every command asks for it."""

from __future__ import annotations

import os
from collections.abc import Mapping


def default_home(environment: Mapping[str, str]) -> str:
    """`HYPERNODE_HOME`, else `hypernode` under the XDG data directory."""
    if home := environment.get("HYPERNODE_HOME"):
        return os.path.abspath(home)
    if data := environment.get("XDG_DATA_HOME"):
        return os.path.join(os.path.abspath(data), "hypernode")
    return os.path.join(os.path.expanduser("~"), ".local", "share", "hypernode")
