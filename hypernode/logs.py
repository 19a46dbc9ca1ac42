"""The log on standard error: lines for people or JSON objects, and no secret in either.

What passes the log is read by more people than the node's user: journals are copied, shipped and searched. So a link is
cut to its beginning, for who has the whole of it can read the image; what follows a word that announces a secret is
masked; and secrets that this process knows (`hide`) are masked wherever they turn up, tracebacks included.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Final

_LINK: Final = re.compile(r"(hyper://[a-z0-9]{8})[a-z0-9]{10,}")
_ANNOUNCED: Final = re.compile(
    r"((?:bearer|authorization|password|passwd|secret|token)[\"']?\s*[:= ]\s*(?:bearer\s+)?[\"']?)[^\s\"',;&]{8,}",
    re.IGNORECASE,
)
_OWN: Final = ("hypernode", "hyperlog", "images", "swarm", "vmhost")
_hidden: Final[set[str]] = set()
_HIDDEN_MAX: Final = 64


def hide(secret: str) -> None:
    """Mask `secret` in all that is logged from here on. The first 64 of a process."""
    if len(secret) >= 8 and len(_hidden) < _HIDDEN_MAX:
        _hidden.add(secret)


def without_secrets(text: str) -> str:
    """`text` as it may be read by others."""
    for secret in _hidden:
        text = text.replace(secret, "…")
    return _LINK.sub(r"\1…", _ANNOUNCED.sub(r"\1…", text))


class TextFormatter(logging.Formatter):
    """`name: message`; whoever collects the lines adds the time."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message; `error` has a traceback, `event` what happened (events.py)."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": without_secrets(record.getMessage()),
        }
        if record.exc_info:
            fields["error"] = without_secrets(self.formatException(record.exc_info))
        event = getattr(record, "event", None)
        if event is not None:
            fields["event"] = json.loads(without_secrets(json.dumps(event)))
        return json.dumps(fields)


def set_up_logging(level: str, form: str, *, with_tracebacks: bool) -> None:
    """Log to standard error from `level` on. Tracebacks are for a daemon's log, and for who asks for `info` or more.

    At `warning` libraries say errors only: their warnings are about single peers, of which the internet has many.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    if not with_tracebacks and level in ("warning", "error"):
        handler.addFilter(_without_traceback)
    logging.basicConfig(level="ERROR" if level == "warning" else level.upper(), handlers=[handler], force=True)
    for package in _OWN:
        logging.getLogger(package).setLevel(level.upper())


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = record.exc_text = None
    return True
