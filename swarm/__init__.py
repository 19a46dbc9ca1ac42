"""swarm: finding peers and moving verified data between them.

It moves log entries and blocks by their names; it knows nothing of images. Importing it is cheap: libp2p is behind
`swarm.net`, which `swarm.network.load_network` loads when the network is first needed.
"""

from swarm.addresses import PeerAddress, PeerId, parse_address
from swarm.network import Network, NetworkSetup, load_network
from swarm.stats import LogStats, PeerStats, SwarmStats
from swarm.swarm import LogSource, Swarm, SwarmConfig

__all__ = [
    "LogSource",
    "LogStats",
    "Network",
    "NetworkSetup",
    "PeerAddress",
    "PeerId",
    "PeerStats",
    "Swarm",
    "SwarmConfig",
    "SwarmStats",
    "load_network",
    "parse_address",
]
