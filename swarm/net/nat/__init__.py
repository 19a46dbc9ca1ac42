"""Reaching nodes that cannot be dialled: relays, hole punching, port mappings, and knowing which of it is needed."""
