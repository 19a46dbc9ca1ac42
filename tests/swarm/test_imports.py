"""Importing the swarm is cheap: libp2p comes only with the network."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import swarm.swarm, swarm.network
heavy = {"libp2p", "multiaddr", "zeroconf", "swarm.net"} & set(sys.modules)
assert not heavy, heavy
swarm.network.load_network(swarm.network.NetworkSetup(identity_seed=bytes(32), mdns=False))
assert "libp2p" in sys.modules
unused = {"aioquic", "dns", "httpx", "requests", "wsproto"} & set(sys.modules)
assert not unused, unused
import libp2p.transport.quic.config
assert libp2p.transport.quic.config.QUICTransportConfig()  # others get the real one
"""


def test_the_swarm_does_not_import_libp2p_until_it_opens_a_network() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=120)
