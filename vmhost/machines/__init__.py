"""Virtual machines: what one is (spec), who runs it (drivers), and how one is known to be well.

A machine is a kernel, an initrd, memory, disks, and named byte channels to its guest. Nothing here knows of containers;
`container.py` is where an image's container is run in one.
"""
