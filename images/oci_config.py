"""The configuration of an OCI or Docker image, as a version's configuration.

Only what says how to run the image is taken. What cannot be expressed is left out with a note, unless leaving it out
would change what runs: then the version refuses it (version.py). Docker's own additions to OCI (Healthcheck) are read
where they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from images.errors import ImageSourceCorrupt
from images.version import Config, Healthcheck

_PORT: Final = re.compile(r"([1-9][0-9]{0,4})(/(?:tcp|udp|sctp))?")
_SIGNAL: Final = re.compile(r"SIG[A-Z0-9+-]{1,16}|[1-9][0-9]?")
_ENV: Final = re.compile(r"[^=\x00-\x20\x7f]+=[^\x00-\x08\x0b-\x1f\x7f]*")
_NOT_KEPT: Final = ("Shell", "OnBuild", "ArgsEscaped")

Document = Mapping[str, Any]


def convert_config(document: Document, notes: list[str]) -> Config:
    """The configuration in an image's config document. Raises `ImageSourceCorrupt` where it is malformed."""
    inner = document.get("config") or {}
    if not isinstance(inner, dict):
        raise ImageSourceCorrupt("the image's configuration is malformed")
    reader = _Reader(inner, notes)
    for key in _NOT_KEPT:
        if inner.get(key):
            notes.append(f"the image's {key}, which only builds use")
    return Config(
        os=_word(document, "os") or "linux",
        arch=_word(document, "architecture") or "amd64",
        cmd=reader.texts("Cmd"),
        entrypoint=reader.texts("Entrypoint"),
        env=reader.environment(),
        user=reader.text("User"),
        workdir=reader.text("WorkingDir"),
        volumes=reader.keys("Volumes"),
        ports=reader.ports(),
        labels=reader.labels(),
        stop_signal=reader.stop_signal(),
        healthcheck=reader.healthcheck(),
    )


class _Reader:
    def __init__(self, fields: Document, notes: list[str]) -> None:
        self._fields = fields
        self._notes = notes

    def _get(self, key: str, kind: type, empty: Any) -> Any:
        value = self._fields.get(key)
        if value is None:
            return empty
        if not isinstance(value, kind):
            raise ImageSourceCorrupt(f"the image's configuration: {key} is malformed")
        return value

    def text(self, key: str) -> str:
        return str(self._get(key, str, ""))

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._get(key, list, [])
        if not all(isinstance(value, str) for value in values):
            raise ImageSourceCorrupt(f"the image's configuration: {key} is malformed")
        return tuple(values)

    def keys(self, key: str) -> tuple[str, ...]:
        return tuple(sorted(self._get(key, dict, {})))

    def environment(self) -> tuple[str, ...]:
        kept = [variable for variable in self.texts("Env") if _ENV.fullmatch(variable)]
        if len(kept) < len(self.texts("Env")):
            self._notes.append("environment variables of the image that are malformed")
        return tuple(kept)

    def ports(self) -> tuple[str, ...]:
        kept: set[str] = set()
        for port in self.keys("ExposedPorts"):
            match = _PORT.fullmatch(port)
            if match is None:
                self._notes.append("exposed ports of the image that are malformed")
            else:
                kept.add(match[1] + (match[2] or "/tcp"))
        return tuple(sorted(kept))

    def labels(self) -> tuple[tuple[str, str], ...]:
        labels = self._get("Labels", dict, {})
        if not all(isinstance(value, str) for value in labels.values()):
            raise ImageSourceCorrupt("the image's configuration: Labels is malformed")
        kept = {name: text for name, text in labels.items() if name and name.isprintable() and "\0" not in text}
        if len(kept) < len(labels):
            self._notes.append("labels of the image that are malformed")
        return tuple(sorted(kept.items()))

    def stop_signal(self) -> str:
        signal = self.text("StopSignal").upper()
        if signal and not signal.isdigit() and not signal.startswith("SIG"):
            signal = "SIG" + signal
        if signal and not _SIGNAL.fullmatch(signal):
            self._notes.append("the image's stop signal, which is malformed")
            return ""
        return signal

    def healthcheck(self) -> Healthcheck | None:
        fields = self._get("Healthcheck", dict, {})
        reader = _Reader(fields, self._notes)
        test = reader.texts("Test")
        if not test:
            return None  # inherited from nothing
        match test:
            case ("NONE",) | ("CMD-SHELL", _) | ("CMD", _, *_):
                return Healthcheck(
                    test=test,
                    interval=reader.count("Interval"),
                    timeout=reader.count("Timeout"),
                    start_period=reader.count("StartPeriod"),
                    retries=reader.count("Retries"),
                )
        self._notes.append("the image's health check, which is malformed")
        return None

    def count(self, key: str) -> int:
        return max(0, int(self._get(key, int, 0)))


def _word(document: Document, key: str) -> str:
    value = document.get(key, "")
    if not isinstance(value, str):
        raise ImageSourceCorrupt(f"the image's configuration: {key} is malformed")
    return value


def make_config(config: Config) -> dict[str, Any]:
    """The `config` part of an OCI image configuration; what is empty is left out. Inverse of `convert_config`."""
    fields: dict[str, Any] = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.ports},
        "Env": list(config.env),
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "Volumes": {volume: {} for volume in config.volumes},
        "WorkingDir": config.workdir,
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
    }
    if (check := config.healthcheck) is not None:
        times = {"Interval": check.interval, "Timeout": check.timeout, "StartPeriod": check.start_period}
        told = {key: value for key, value in {**times, "Retries": check.retries}.items() if value}
        fields["Healthcheck"] = {"Test": list(check.test), **told}
    return {key: value for key, value in fields.items() if value}
