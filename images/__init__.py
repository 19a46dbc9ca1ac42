"""images: the content of container images: import, manifest, blob space, the EROFS view, versions.

Not here: where blocks come from when they are not local (swarm, behind the port `source.BlockSource`), and mounting
(vmhost). Nothing imports from this file; names are imported from the modules that define them.
"""
