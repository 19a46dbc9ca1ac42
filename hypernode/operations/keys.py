"""Who may write to an image's log, and the secret keys of this home.

A secret leaves the node only sealed under a passphrase. What is exported is two lines: the link of the image (which is
a read capability) and the sealed key (hyperlog/key_export.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from hyperlog.entry import Kind
from hyperlog.errors import Conflict, NotFound, Refused
from hyperlog.ids import LogKey, WriterKey, from_text, to_text
from hyperlog.key_export import export_key, import_key
from hyperlog.keys import is_public_key
from hyperlog.limits import LABEL_BYTES_MAX
from hyperlog.link import SCHEME, Link, parse_link
from hyperlog.log import Log
from hyperlog.writers import Grant, Revoke, Rights, decode_operation
from hypernode.api.key_requests import (
    AskToWrite,
    ExportKey,
    GrantWriter,
    ImportKey,
    KeyRequest,
    Keys,
    RevokeWriter,
    RotateKey,
    Writers,
)
from hypernode.api.server import Call
from hypernode.node import Node
from hypernode.opening import find_version


async def operate_on_keys(node: Node, request: KeyRequest, call: Call) -> Mapping[str, Any]:
    """Carry out `request`."""
    match request:
        case Keys():
            return {"keys": [_own_key(log) for log in node.repository.logs.list() if log.writer is not None]}
        case ExportKey():
            return await _export(node, request)
        case ImportKey():
            return await _import(node, request)
        case RotateKey():
            return await trio.to_thread.run_sync(_rotate, node, request)
        case Writers():
            return _writers(_log(node, request.link))
        case AskToWrite():
            return await _ask_to_write(node, request, call)
        case GrantWriter():
            return await trio.to_thread.run_sync(_grant, node, request)
        case RevokeWriter():
            return await trio.to_thread.run_sync(_revoke, node, request)


def _log(node: Node, text: str) -> Log:
    return node.repository.logs.open(parse_link(text).key)


def _own_key(log: Log) -> dict[str, Any]:
    assert log.writer is not None
    return {"link": Link(log.key).text, "name": log.name, **_standing(log, log.writer)}


def _standing(log: Log, writer: WriterKey) -> dict[str, Any]:
    """What a key may do. `state`: owner, writer, admitted (nothing written yet), dismissed, forked, or not admitted."""
    held, counted = log.held().get(writer, 0), log.vector().get(writer, 0)
    policy = log.policy
    if policy.limit(writer) <= held and policy.limits.get(writer) is not None:
        state = "forked" if writer in log.forks() else "dismissed"
    elif writer == log.owner:
        state = "owner"
    elif policy.rights(writer, held):
        state = "writer"
    else:
        state = "admitted" if policy.open_admission(writer) is not None else "not admitted"
    rights = policy.rights(writer, held) if state in ("owner", "writer") else Rights(0)
    return {
        "key": to_text(writer),
        "state": state,
        "rights": [str(right.name).lower() for right in Rights if right in rights],
        "entries": counted,
    }


async def _export(node: Node, request: ExportKey) -> Mapping[str, Any]:
    log = _log(node, request.link)
    pair = node.repository.logs.key_pair(log.key)
    sealed = await trio.to_thread.run_sync(export_key, pair, request.passphrase)
    link = Link(log.key).text
    return {"link": link, "key": to_text(pair.public), "text": f"{link}\n{sealed}\n"}


async def _import(node: Node, request: ImportKey) -> Mapping[str, Any]:
    named, sealed = _parts(request.text)
    pair = await trio.to_thread.run_sync(import_key, sealed, request.passphrase)
    links = {parse_link(text).key for text in (named, request.link) if text is not None}
    if len(links) > 1:
        raise Refused("the key was exported for another image than --link names", "leave --link out")
    key = links.pop() if links else LogKey(pair.public)
    try:
        held = node.repository.logs.open(key).writer
    except NotFound:
        held = None
    if held == pair.public:
        raise Conflict("this home writes to that image under this very key already", "nothing is left to do")
    if held is not None:
        raise Conflict(
            f"this home writes to that image under another key, {to_text(held)}",
            "nothing was changed; import into another --home, or go on with the key that is here",
        )
    log = await trio.to_thread.run_sync(node.repository.logs.import_key, key, pair)
    node.join(log.key)
    return _own_key(log)


def _parts(text: str) -> tuple[str | None, str]:
    """(link or None, sealed key) of what `_export` gave, or of the sealed key alone."""
    first, newline, rest = text.strip().partition("\n")
    return (first.strip(), rest) if newline and first.startswith(SCHEME) else (None, text)


def _rotate(node: Node, request: RotateKey) -> Mapping[str, Any]:
    log = _log(node, request.link)
    before = node.repository.logs.key_pair(log.key).public
    node.repository.logs.rotate(log.key)
    return {**_own_key(log), "before": to_text(before)}


def _writers(log: Log) -> Mapping[str, Any]:
    """The first owner, then keys in the order in which they came to be known here."""
    said: dict[WriterKey, str] = {WriterKey(log.key): ""}
    for _, entry in log.changes():
        if entry.kind is Kind.SYSTEM:
            match decode_operation(entry.value):
                case Grant(key, _, label):
                    said[key] = label
                case Revoke(key, _, reason):
                    said[key] = reason or said.get(key, "")
                case operation:
                    said.setdefault(operation.key, "")
    return {
        "link": Link(log.key).text,
        "writers": [
            {**_standing(log, key), "label": label, "is_here": key == log.writer} for key, label in said.items()
        ],
    }


async def _ask_to_write(node: Node, request: AskToWrite, call: Call) -> Mapping[str, Any]:
    async def tell(stage: str) -> None:
        await call.event("stage", stage=stage)

    link = parse_link(request.link)
    log, _ = await find_version(node, link, request.peers, refresh=False, tell=tell)
    if log.writer is not None and log.writer == log.owner:
        raise Conflict("this home owns that image", "`hypernode share --update LINK` adds a version")
    key = await trio.to_thread.run_sync(node.repository.logs.ask_to_write, link.key)
    return {"link": Link(log.key).text, **_standing(log, key)}


def _grant(node: Node, request: GrantWriter) -> Mapping[str, Any]:
    log, key = _log(node, request.link), _writer_key(request.key)
    if _standing(log, key)["state"] in ("owner", "writer", "admitted"):
        raise Conflict("that key may write to the image already", "`hypernode writers ls` shows who may")
    log.grant(key, label=_words(request.label))
    return {"link": Link(log.key).text, **_standing(log, key)}


def _revoke(node: Node, request: RevokeWriter) -> Mapping[str, Any]:
    log, key = _log(node, request.link), _writer_key(request.key)
    state = _standing(log, key)["state"]
    if state == "not admitted":
        raise NotFound("that key was never admitted to the image", "`hypernode writers ls` shows who was")
    if state == "dismissed":
        raise Conflict("that key was dismissed before", "`hypernode writers ls` shows who may write")
    log.revoke(key, reason=_words(request.reason))
    return {"link": Link(log.key).text, **_standing(log, key)}


def _writer_key(text: str) -> WriterKey:
    raw = from_text(text.strip())
    if not is_public_key(raw):
        raise Refused("nobody can own that key", "copy what `hypernode writers ask` printed on the writer's side")
    return WriterKey(raw)


def _words(text: str) -> str:
    if len(text.encode()) > LABEL_BYTES_MAX or not text.isprintable():
        raise Refused(
            "this text cannot be a label or a reason", f"at most {LABEL_BYTES_MAX} bytes, all of them printable"
        )
    return text
