"""The protocol between two peers of one log: bytes and events in, bytes and events out. Nothing here waits."""
