"""What the command line says of a container, as what is asked of the node."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hyperlog.errors import NotFound, Refused
from hypernode.api.container_requests import CreateContainer
from hypernode.config import Config
from hypernode.moments import parse_duration
from hypernode.sizes import parse_rate, parse_size

_ENV_FILE_BYTES_MAX: Final = 1 << 20


def asked_for(config: Config, arguments: Mapping[str, Any]) -> CreateContainer:
    """Raises `Refused`, `NotFound`."""
    if not arguments["detach"] and arguments["tty"] and not os.isatty(0):
        raise Refused("in the foreground the terminal is this command's own, and it has none", "leave --tty out")
    if arguments["detach"] and arguments["stats"] is not None:
        raise Refused("--stats tells of the end", "leave --detach out")
    if arguments["no_healthcheck"] and arguments["health_cmd"] is not None:
        raise Refused("there is a check, or there is none", "choose --health-cmd or --no-healthcheck")
    rate = arguments["prefetch_rate"]
    return CreateContainer(
        link=arguments["link"],
        name=arguments["name"],
        command=tuple(arguments["command"] or ()),
        entrypoint=arguments["entrypoint"],
        env=environment(arguments["env"] or (), arguments["env_file"] or ()),
        labels=tuple(arguments["label"] or ()),
        workdir=arguments["workdir"],
        user=arguments["user"],
        hostname=arguments["hostname"],
        binds=tuple(_absolute(text) for text in (*(arguments["bind"] or ()), *(arguments["volume"] or ()))),
        ports=tuple(arguments["port"] or ()),
        network=arguments["net"],
        cpus=arguments["cpus"],
        memory=None if arguments["memory"] is None else parse_size(arguments["memory"]),
        processes=arguments["pids"],
        read_only=arguments["read_only"],
        restart=arguments["restart"],
        auto_remove=arguments["auto_remove"],
        tty=arguments["detach"] and arguments["tty"],
        stdin=arguments["detach"] and arguments["interactive"],
        stop_signal=arguments["stop_signal"],
        stop_seconds=arguments["stop_seconds"],
        keep=arguments["keep"],
        peers=tuple(arguments["peers"] or ()),
        read_deadline=config.read_deadline,
        refresh=arguments["refresh"],
        prefetch=arguments["prefetch"],
        prefetch_rate=None if rate is None else parse_rate(rate),
        learn=config.private_traces,
        complete=arguments["complete"],
        isolation=arguments["isolation"],
        drives=config.drives if arguments["isolation"] == "vm" else arguments["drives"] or "auto",
        trust=arguments["trust"],
        gpus=tuple(arguments["gpu"] or ()),
        health_command="" if arguments["no_healthcheck"] else arguments["health_cmd"],
        health_interval=_seconds(arguments["health_interval"]),
        health_timeout=_seconds(arguments["health_timeout"]),
        health_start_period=_seconds(arguments["health_start_period"]),
        health_retries=arguments["health_retries"],
        guest=arguments["guest"],
        hypervisor=arguments["hypervisor"],
        publish_all=arguments["publish_all"],
        system=arguments["system"],
        log_max_size=config.log_max_size,
        log_max_files=config.log_max_files,
    )


def _seconds(text: str | None) -> float | None:
    return None if text is None else parse_duration(text)


def environment(words: Sequence[str], files: Sequence[Path]) -> tuple[str, ...]:
    """NAME=VALUE of `--env-file` and `--env`; a name alone takes its value from this process. Later ones win."""
    found: dict[str, str] = {}
    for word in (*(line for path in files for line in _lines(path)), *words):
        name, equals, value = word.partition("=")
        if not equals and name not in os.environ:
            continue  # as Docker: what is not set here is not set there
        found[name] = value if equals else os.environ[name]
    return tuple(f"{name}={value}" for name, value in found.items())


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            raw = file.read(_ENV_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", "name a file of NAME=VALUE lines") from None
    if len(raw) > _ENV_FILE_BYTES_MAX:
        raise Refused(f"{path} is longer than {_ENV_FILE_BYTES_MAX} bytes")
    for line in raw.decode("utf-8", "surrogateescape").splitlines():
        text = line.strip()
        if text and not text.startswith("#"):
            yield text


def _absolute(text: str) -> str:
    """A source that is a path (it has a slash, or is a dot) from here on without the directory it was said in."""
    source, colon, rest = text.partition(":")
    if "/" in source or source in (".", ".."):
        source = os.path.abspath(source)
    return f"{source}{colon}{rest}"
