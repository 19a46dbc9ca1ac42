"""What can go wrong with images. Each error is of exactly one kind of `hyperlog.errors`."""

from __future__ import annotations

from typing import ClassVar

from hyperlog.errors import Conflict, Corrupt, NotFound, Refused, Unavailable


class BlockFrameBad(Corrupt):
    """A block's stored bytes are not the one plain zstd frame of the promised length that they should be."""


class ManifestCorrupt(Corrupt):
    """A manifest breaks a rule of docs/IMAGE_FORMAT.md or a limit of limits.py, whoever signed it."""


class VersionCorrupt(Corrupt):
    """The value of a log entry claims to be an image version and is not a valid one."""


class TraceCorrupt(Corrupt):
    """The value of a log entry claims to be a boot trace and is not a valid one, or not one of this image."""


class ImageTooNew(Refused):
    """The image was made by a newer hypernode and uses what this one does not know."""


class ImportRefused(Refused):
    """Something in the source tree cannot be part of an image, or cannot be read."""

    def __init__(self, message: str, hint: str | None = None, *, path: bytes = b"") -> None:
        super().__init__(message, hint)
        self.path = path


class ImportChanged(Conflict):
    """The source tree changed while it was read."""

    code: ClassVar[str] = "import_changed"

    def __init__(self, message: str, hint: str | None = None, *, path: bytes = b"") -> None:
        super().__init__(message, hint)
        self.path = path


class ImportStopped(Unavailable):
    """The import was interrupted on request; what it stored is used by the next one."""


class NoSuchVersion(NotFound):
    """The log has no such image version."""


class AmbiguousVersion(Refused):
    """The text names more than one image version."""


class ArchiveCorrupt(Corrupt):
    """A tar, or the compression around it, is cut short, malformed, or means two things at once."""


class ImageSourceCorrupt(Corrupt):
    """An OCI layout, docker archive or registry copy breaks its format: a document, a digest, a size, a file type."""


class DigestMismatch(ImageSourceCorrupt):
    """Content is not what its digest says; the message tells which digest."""


class SourceUnsupported(Refused):
    """The source is of a kind, or uses a feature, that images cannot be made from."""


class SourceTooLarge(Refused):
    """The source is, or expands to, more than the limits of limits.py."""


class NoSuchPlatform(NotFound):
    """The source has no image for the platform; the message lists those it has."""


class AmbiguousSource(Refused):
    """The source holds several images, and none was named."""
