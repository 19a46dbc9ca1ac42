"""Finding peers, as values and rules: no trio, no sockets, no clock of its own (swarm/finder.py drives it)."""
