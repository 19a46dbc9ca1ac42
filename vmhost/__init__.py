"""Using images on this host: lazily filled block files, mounts, containers.

Not here: what an image is (images), where its bytes come from (swarm), who decides what runs (hypernode). Everything
takes what it needs as a parameter, undoes it when its block is left, and starts nothing behind its caller's back.
"""
