"""A home router's UPnP side, small: answers searches on its network, maps ports, remembers them. A program.

    python -m tests.support.gateway INSIDE_ADDRESS OUTSIDE_ADDRESS    prints `ready`, then each change

What it maps it also forwards, with iptables, in the namespace it runs in.
"""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

_GROUP = "239.255.255.250"
_SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
_DEVICE = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
_DESCRIPTION = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>
<device><deviceType>{_DEVICE}</deviceType><friendlyName>gateway</friendlyName><manufacturer>tests</manufacturer>
<modelName>gateway</modelName><UDN>uuid:1</UDN><deviceList>
<device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><UDN>uuid:2</UDN><deviceList>
<device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><UDN>uuid:3</UDN><serviceList>
<service><serviceType>{_SERVICE}</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>
<SCPDURL>/scpd</SCPDURL><controlURL>/control</controlURL><eventSubURL>/events</eventSubURL></service>
</serviceList></device></deviceList></device></deviceList></device></root>"""


class _Handler(BaseHTTPRequestHandler):
    outside: ClassVar[str] = ""

    def do_GET(self) -> None:
        self._answer(200, _DESCRIPTION)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        action = self.headers["SOAPAction"].strip('"').partition("#")[2]
        fields = dict(re.findall(r"<(New\w+)[^>]*>([^<]*)</", body))
        result = {
            "GetStatusInfo": "<NewConnectionStatus>Connected</NewConnectionStatus><NewUptime>1</NewUptime>"
            "<NewLastConnectionError>ERROR_NONE</NewLastConnectionError>",
            "GetExternalIPAddress": f"<NewExternalIPAddress>{self.outside}</NewExternalIPAddress>",
            "AddPortMapping": "",
            "DeletePortMapping": "",
        }.get(action)
        if result is None:
            self._answer(500, "")
            return
        if action == "AddPortMapping":
            if fields["NewLeaseDuration"] != "0":
                self._fault(725, "OnlyPermanentLeasesSupported")
                return
            self._forward("-A", fields["NewExternalPort"], fields["NewInternalClient"], fields["NewInternalPort"])
        if action == "DeletePortMapping":
            self._forward("-D", fields["NewExternalPort"])
        self._answer(200, _envelope(f'<u:{action}Response xmlns:u="{_SERVICE}">{result}</u:{action}Response>'))

    _mapped: ClassVar[dict[str, str]] = {}

    def _forward(self, verb: str, outside: str, client: str = "", inside: str = "") -> None:
        target = f"{client}:{inside}" if client else self._mapped.pop(outside)
        self._mapped[outside] = target
        host, _, port = target.partition(":")
        to = ["-t", "nat", verb, "PREROUTING", "-i", "outside", "-p", "tcp", "--dport", outside]
        allow = ["-p", "tcp", "-d", host, "--dport", port, "-j", "ACCEPT"]
        subprocess.run(["iptables", *to, "-j", "DNAT", "--to-destination", target], check=True)
        subprocess.run(["iptables", "-I" if verb == "-A" else "-D", "FORWARD", *allow], check=True)
        _say("mapped" if verb == "-A" else "unmapped", outside, target)

    def _fault(self, code: int, text: str) -> None:
        detail = f'<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{code}</errorCode>'
        detail += f"<errorDescription>{text}</errorDescription></UPnPError>"
        fault = "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring>"
        self._answer(500, _envelope(f"{fault}<detail>{detail}</detail></s:Fault>"))

    def _answer(self, status: int, body: str) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def _envelope(body: str) -> str:
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        f's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>{body}</s:Body></s:Envelope>'
    )


def main(inside: str, outside: str) -> None:
    _Handler.outside = outside
    server = ThreadingHTTPServer((inside, 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    searches = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    searches.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    searches.bind((_GROUP, 1900))
    searches.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4s", *map(socket.inet_aton, (_GROUP, inside)))
    )
    answers = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    answers.bind((inside, 0))
    _say("ready")
    while True:
        data, sender = searches.recvfrom(2048)
        found = re.search(rb"\nST: *(\S+)", data, re.IGNORECASE)
        wanted = found[1].decode() if found else ""
        if data.startswith(b"M-SEARCH") and wanted in (_DEVICE, "upnp:rootdevice", "ssdp:all"):
            answer = f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=60\r\nST: {wanted}\r\nUSN: uuid:1::{wanted}\r\n"
            where = f"http://{inside}:{server.server_port}/root.xml"
            answers.sendto(f"{answer}EXT:\r\nSERVER: tests\r\nLOCATION: {where}\r\n\r\n".encode(), sender)


if __name__ == "__main__":
    main(*sys.argv[1:])
