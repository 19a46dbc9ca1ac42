"""The sites beside the API's: the gateway, and the pinning service. Each has an address, and so an origin, of its own.

The gateway asks for a token wherever it can be reached from elsewhere (with TLS); on loopback whoever is on this host
may read what is in this home. The pinning service asks for one everywhere.
"""

from __future__ import annotations

import trio

from hypernode.http.app import make_app
from hypernode.http.gateway import gateway_routes
from hypernode.http.gateway_images import GatewayImages
from hypernode.http.layers import Layers
from hypernode.http.pinning import pinning_routes
from hypernode.http.registry import registry_routes
from hypernode.http.server import Application
from hypernode.http.sites import SiteSetup
from hypernode.http.who import asking_for_tokens
from hypernode.node import Node
from hypernode.tokens import Right


def make_gateway(node: Node, setup: SiteSetup, work: trio.Nursery) -> Application:
    """Images as files, and to be pulled. `work`: where layers are worked out."""
    images = GatewayImages(node)
    routes = [*registry_routes(node, images, Layers(node, work)), *gateway_routes(node, images)]
    app = make_app(routes, None)
    return app if setup.tls is None else asking_for_tokens(app, node.tokens, Right.GATEWAY)


def make_pinning(node: Node) -> Application:
    """Pins of those who have a token."""
    return asking_for_tokens(make_app(pinning_routes(node), None), node.tokens, Right.PINS)
