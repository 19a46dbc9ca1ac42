"""The node's one API: typed requests, JSON lines over a stream, a server and a client."""
