"""HyperOS: the guest of our virtual machines, made from Debian packages, and the cache where built guests lie."""
