"""Containers that outlive the terminal: what is kept of each on disk, and the process that keeps it.

A *keeper* is a process for each container, a child of nobody that ends before it: it holds the boot on the node, runs
the container, keeps its log, answers what is asked of it, and applies its restart policy. Its state lies in the home,
so that every command, with a daemon or without, and the next node, find it.
"""
