"""A program that speaks Cloud Hypervisor's API, as its OpenAPI description has it, and runs no machine.

It writes its command line to `argv.json` in its directory. For vsock it answers as Cloud Hypervisor does, on port 1024,
and then says what it hears; `rude` in the kernel's command line makes it end at once. As a module it has `install`.
"""

from __future__ import annotations

import json
import os
import signal
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar


def install(directory: Path) -> str:
    """A command that is this program; where it is."""
    command = directory / "cloud-hypervisor"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{Path(__file__).resolve()}" "$@"\n')
    command.chmod(0o755)
    return str(command)


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: ClassVar[str] = "Created"
    asked: ClassVar[list[Any]] = []

    def do_GET(self) -> None:
        if self.path == "/api/v1/vm.info":
            self._say(200, {"config": {"disks": []}, "state": _Api.state, "memory_actual_size": 0})
        else:
            self._say(404)

    def do_PUT(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = json.loads(self.rfile.read(length)) if length else None
        _Api.asked.append([self.path.removeprefix("/api/v1/"), body])
        Path("asked.json").write_text(json.dumps(_Api.asked))
        changes = {"vm.pause": ("Running", "Paused"), "vm.resume": ("Paused", "Running")}
        name = self.path.removeprefix("/api/v1/")
        if name in changes:
            before, after = changes[name]
            if _Api.state != before:
                self._say(405)
                return
            _Api.state = after
        elif name == "vm.snapshot":
            if _Api.state != "Paused" or body is None:
                self._say(500, ["Error from API", "the VM is not paused"])
                return
            place = Path(str(body["destination_url"]).removeprefix("file://"))
            (place / "config.json").write_text(json.dumps({"disks": [{"path": "/old", "readonly": True}], "cpus": 1}))
            (place / "state.json").write_text("{}")
            (place / "memory-ranges").write_bytes(b"memory")
        elif name != "vm.resize":
            self._say(404)
            return
        self._say(204)

    def _say(self, status: int, body: object = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


class _Vsock(socketserver.StreamRequestHandler):
    listens_at: ClassVar[float] = 0.0

    def handle(self) -> None:
        if self.rfile.readline() != b"CONNECT 1024\n" or time.monotonic() < _Vsock.listens_at:
            return
        self.wfile.write(b"OK 1073741824\n")
        while data := self.connection.recv(4096):
            self.wfile.write(data)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def main() -> None:
    Path("argv.json").write_text(json.dumps(sys.argv[1:]))
    words = " ".join(sys.argv)
    if "rude" in words:
        sys.exit("cloud-hypervisor: the kernel cannot be read")
    _Api.state = "Paused" if "--restore" in sys.argv else "Running"
    _Vsock.listens_at = time.monotonic() + 0.3  # the guest boots
    servers = [_Server("api.sock", _Api)]
    if "--vsock" in sys.argv:
        servers.append(_Server("vsock.sock", _Vsock))
    os.write(1, b"hyper: 0.1 userspace\n")
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
