"""Remote mounts: the file system here, the store there (docs/REMOTE.md)."""
