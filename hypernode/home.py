"""Where things are kept when nobody says otherwise. Imports nothing that takes time: every command asks for it."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing's takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

SYSTEM_CONFIG: Final = "/etc/hypernode/config.toml"


def default_home(environment: Mapping[str, str]) -> str:
    """`hypernode` under the XDG data directory."""
    return _under(environment, "XDG_DATA_HOME", ".local", "share")


def default_state(environment: Mapping[str, str]) -> str:
    """`hypernode` under the XDG state directory."""
    return _under(environment, "XDG_STATE_HOME", ".local", "state")


def user_config(environment: Mapping[str, str]) -> str:
    """The user's configuration file, under the XDG configuration directory."""
    return os.path.join(_under(environment, "XDG_CONFIG_HOME", ".config"), "config.toml")


def user_units(environment: Mapping[str, str]) -> str:
    """Where systemd looks for a user's units."""
    return os.path.join(os.path.dirname(_under(environment, "XDG_CONFIG_HOME", ".config")), "systemd", "user")


def _under(environment: Mapping[str, str], variable: str, *otherwise: str) -> str:
    if directory := environment.get(variable):
        return os.path.join(os.path.abspath(directory), "hypernode")
    return os.path.join(os.path.expanduser("~"), *otherwise, "hypernode")
