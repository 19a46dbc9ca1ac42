"""Telling the service manager that started us how it goes (sd_notify(3)): one datagram, no library."""

from __future__ import annotations

import contextlib
import os
import socket


class ServiceManager:
    """Who started this process, if that wants to hear of it. What this process starts is not to speak for it."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")

    def tell(self, state: str) -> None:
        """`READY=1`, `STOPPING=1`. Nobody there is no fault of ours."""
        if not self._address.startswith(("/", "@")):
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
            speaker.setblocking(False)
            with contextlib.suppress(OSError):
                speaker.sendto(state.encode(), address)
