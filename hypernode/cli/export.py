"""`hypernode export`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from hyperlog.errors import Refused
from hypernode.api.export_requests import Export
from hypernode.cli.progress import EventPrinter, note
from hypernode.cli.reach import reach_node
from hypernode.cli.registry_auth import is_reference, registry_auth
from hypernode.config import Config
from hypernode.exit_codes import EXIT_OK

_FORMS: Final = ("oci", "docker-archive", "tar", "dir", "push")


async def export(config: Config, arguments: Mapping[str, Any]) -> int:
    """Write the version out, and say where."""
    request = _request(arguments)
    async with reach_node(config) as node:
        with EventPrinter() as printer, registry_auth(request.target, arguments["auth_file"]) as auth_file:
            result = await node.client.call(replace(request, auth_file=auth_file), printer)
    if arguments["as_json"]:
        print(json.dumps(result))
    else:
        note(f"version {result['version']} of {result['link']} is in {result['target']}")
    return EXIT_OK


def _request(arguments: Mapping[str, Any]) -> Export:
    wanted = [(form, arguments[form]) for form in _FORMS if arguments[form] is not None]
    if len(wanted) != 1:
        raise Refused("export to exactly one of --oci, --docker-archive, --tar, --dir and --push")
    form, target = wanted[0]
    if form == "push" and not is_reference(str(target)):
        raise Refused("--push takes a registry reference", "for example docker://registry.example/web:1.0")
    return Export(
        link=arguments["link"],
        form=form,
        target=str(target) if form == "push" else os.path.abspath(target),
        ref=arguments["ref"],
        peers=tuple(arguments["peers"]),
        refresh=arguments["refresh"],
        insecure=arguments["insecure"],
    )
