"""The command line: the only place that knows typer and rich. It speaks to a node through its API only.

Modules here import lazily on purpose: `hypernode --help` has 0.3 s, and trio, the store and libp2p are not free.
"""
