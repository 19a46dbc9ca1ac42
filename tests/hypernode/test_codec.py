"""Requests and replies as JSON lines."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlog.errors import Conflict, Corrupt, HyperError, NotFound, Refused, Unavailable
from hypernode.api.codec import decode_answer, decode_failure, decode_request, encode_failure, encode_request
from hypernode.api.container_requests import CreateContainer
from hypernode.api.requests import Boot, Images, Mount, Request, Seed, Share, ShowLog, Status, Unmount
from hypernode.errors import BadRequest

EXAMPLES: list[Request] = [
    Share(
        "/srv/root",
        name="web",
        message="first",
        command=("nginx", "-g"),
        environment=("A=b",),
        user="1000",
        workdir="/x",
    ),
    Share("/srv/root"),
    Seed(),
    Boot("hyper://k", ("/ip4/127.0.0.1/tcp/1",), 2.5, refresh=True),
    Mount("hyper://k", "/mnt"),
    Unmount("/mnt"),
    Images(),
    ShowLog("hyper://k", refresh=True),
    Status(),
]


@pytest.mark.parametrize("request_", EXAMPLES, ids=lambda request: request.op)
def test_a_request_survives_the_wire(request_: Request) -> None:
    assert decode_request(encode_request(request_)) == request_


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no json",
        b"[]",
        b'{"v":1}',
        b'{"v":2,"op":"images"}',
        b'{"v":1,"op":"explode"}',
        b'{"v":1,"op":["images"]}',
        b'{"v":1,"op":"images","more":1}',
        b'{"v":1,"op":"share"}',
        b'{"v":1,"op":"share","path":7}',
        b'{"v":1,"op":"boot","link":"x","peers":"y"}',
        b'{"v":1,"op":"boot","link":"x","peers":[1]}',
        b'{"v":1,"op":"boot","link":"x","read_deadline":true}',
        b'{"v":1,"op":"boot","link":"x","refresh":1}',
        b'{"v":1,"op":"share","path":"a\\u0000b"}',
        b'{"v":1,"op":"share","path":"\\ud800"}',
        b'{"v":1,"op":"boot","link":"x","peers":["\\u0000"]}',
        b'{"v":1,"op":"boot","link":"x","read_deadline":NaN}',
        b'{"v":1,"op":"boot","link":"x","read_deadline":1e999}',
        b'{"v":1,"op":"boot","link":"x","prefetch_rate":9223372036854775808}',
        b"[" * 100_000,
        b'{"v":1,"op":"log","link":"a","link":"b"}',
        b'{"v":1,"op":"log","link":"a","read_deadline":' + b"9" * 5000 + b"}",
    ],
)
def test_anything_else_is_a_bad_request(line: bytes) -> None:
    with pytest.raises(BadRequest):
        decode_request(line)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_bad_request(line: bytes) -> None:
    try:
        request = decode_request(line)
    except BadRequest:
        return
    assert encode_request(request)


@pytest.mark.parametrize("kind", [NotFound, Refused, Conflict, Unavailable, Corrupt, HyperError])
def test_an_error_keeps_its_kind_message_and_hint(kind: type[HyperError]) -> None:
    fields = json.loads(encode_failure(kind("what", "do this")))["error"]
    again = decode_failure(fields)
    assert (type(again), again.message, again.hint) == (kind, "what", "do this")


def test_an_older_node_is_asked_only_what_is_wished_and_its_answer_may_lack_a_field() -> None:
    assert json.loads(encode_request(CreateContainer("hyper://x", name="web"))) == {
        "v": 1,
        "op": "container-create",
        "link": "hyper://x",
        "name": "web",
    }
    answer = decode_answer(b'{"result": {"containers": [{"state": {"pid": 7}}]}}')
    state = answer["result"]["containers"][0]["state"]
    assert (state["pid"], state.get("image")) == (7, None)
    with pytest.raises(Unavailable, match="'image': it was started with an older version"):
        state["image"]
