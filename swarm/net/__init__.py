"""The only door to libp2p, multiaddr and zeroconf. Importing it costs seconds: see swarm.network.load_network."""
