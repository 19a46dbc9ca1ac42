"""swarm: finding peers and moving verified data between them.

It moves log entries and blocks by their names; it knows nothing of images. Importing it is cheap: libp2p is behind
`swarm.net`, which `swarm.network.load_network` loads when the network is first needed.

Nothing imports from this file; names are imported from the modules that define them.
"""
