"""hypernode: the node that joins log, images, swarm and mounts, its API and its command line."""
