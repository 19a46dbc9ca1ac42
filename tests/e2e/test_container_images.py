"""What an image says of how it is to be run holds, and what is told of containers: labels, events, logs, traces."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hypernode.http.server import Message, Receive, Send, serve_http
from tests.images.layers import layout
from tests.support.containers import Home, nothing_of_containers_left, share
from tests.support.nodes import Node, daemon, running, wait_until
from tests.vmhost.support import make_busybox_root, needs_programs

pytestmark = [pytest.mark.real, needs_programs]

_SCRIPT = """trap 'echo got INT; exit 9' INT; trap 'echo got TERM; exit 8' TERM
echo $NAME $HOSTNAME; id -u; id -g; pwd; echo ready; while true; do sleep 0.1; done"""
_CONFIG = {
    "User": "1234:55",
    "WorkingDir": "/made/by/nobody",
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": [_SCRIPT],
    "Env": ["NAME=of the image", "PATH=/bin", "no.name=for nspawn"],
    "ExposedPorts": {"8080/tcp": {}, "53/udp": {}},
    "StopSignal": "SIGINT",
    "Labels": {"org.example.of": "image", "job": "image"},
}


def _image(place: Path) -> Path:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        root = make_busybox_root(place / "root")
        shutil.rmtree(root / "run")
        tar.add(root, arcname=".")
    return layout(place / "layout", [data.getvalue()], config=_CONFIG)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """With a daemon."""
    node = Node(tmp_path / "home")
    with daemon(node), nothing_of_containers_left(node.home):
        home = share(node, _image(tmp_path))
        try:
            yield home
        finally:
            for identity in home.do("ps", "-aq", "--no-trunc").split():
                home.do("rm", "-f", identity)


def test_what_the_image_says_holds_unless_something_else_is_asked_for(home: Home) -> None:
    shown = home.do("show", home.link)
    assert [line.split() for line in shown.splitlines() if line.startswith(("port", "stop"))] == [
        ["port", "53/udp"],
        ["port", "8080/tcp"],
        ["stop", "with", "SIGINT"],
    ]
    # labels that are called like what the node says itself
    mine = [word for name in ("job", "action", "self", "name", "type") for word in ("--label", f"{name}=mine")]
    booted = home.node.run("boot", "-d", "--name", "one", *mine, home.link)
    assert booted.returncode == 0, booted.stderr
    assert "'no.name'" in booted.stderr
    identity = booted.stdout.strip()
    printed = home.wait_log("one", "ready")
    assert printed.splitlines() == ["of the image " + identity[:12], "1234", "55", "/made/by/nobody", "ready"]
    assert "53/udp, 8080/tcp" in home.do("ps")
    assert home.names("--label", "org.example.of=image", "--label", "job=mine") == ["one"]
    assert home.names("--label", "job=image") == []
    home.do("stop", "--time", "100", "one")
    assert home.state("one")["exit_code"] == 9
    lines = home.do("events", "--since", "1h", "--no-follow", "--json", "--filter", f"id={identity}").splitlines()
    events = {event["action"]: event["attributes"] for event in map(json.loads, lines)}
    assert {"create", "start", "kill", "die", "stop"} <= events.keys()
    assert events["kill"]["signal"] == "2"
    assert (events["die"]["exitCode"], events["die"]["name"]) == ("9", "one")
    assert (events["die"]["org.example.of"], events["die"]["action"]) == ("image", "mine")

    mine = ["--stop-signal", "TERM", "-e", "NAME=mine", "-u", "0", "--read-only"]
    home.do("boot", "-d", "--name", "two", *mine, home.link)
    assert home.wait_log("two", "ready").splitlines()[:2] == ["mine " + home.inspect("two")["id"][:12], "0"]
    home.do("stop", "--time", "100", "two")
    assert home.state("two")["exit_code"] == 8


def test_what_a_socket_of_dockers_needs_is_there(home: Home) -> None:
    options = ["--name", "one", "-i", "-P", "--log-max-size", "128k", "--log-max-files", "1", "--entrypoint", ""]
    script = "printf 'a prompt> '; while read line; do echo got $line; done"
    identity = home.do("boot", "-d", *options, home.link, "--", "sh", "-c", script).strip()
    first = home.state("one")
    assert [re.sub(r"^0.0.0.0:\d{4,5}->", "", text) for text in first["ports"]] == ["53/udp", "8080/tcp"]
    assert all(text in home.do("ps") for text in first["ports"])
    assert (first["image"]["workdir"], first["image"]["env"][0]) == ("/made/by/nobody", "NAME=of the image")
    with running(home.node.start("attach", "--replay", "one")) as attached:
        assert attached.communicate("word\n", timeout=120)[0] == "a prompt> got word\n"  # its input ended, and so it
    home.wait_status("one", "exited")
    home.do("start", "one")
    assert home.do("exec", "one", "sh", "-c", "exit 7", status=7) == ""
    home.do("restart", "--time", "0", "one")
    home.do("kill", "one")
    home.wait_status("one", "exited")
    home.do("rm", "one")
    lines = home.do("events", "--since", "1h", "--no-follow", "--json", "--filter", f"id={identity}").splitlines()
    events = [(event["action"].partition(":")[0], event["attributes"]) for event in map(json.loads, lines)]
    assert [action for action, _ in events] == [
        *("create", "start", "attach", "die", "start", "exec_create", "exec_start", "exec_die"),
        *("kill", "kill", "die", "stop", "start", "restart", "kill", "die", "destroy"),
    ]
    assert len({told["execID"] for action, told in events if action.startswith("exec_")}) == 1
    assert all(re.fullmatch(r"\d+", told["execDuration"]) for action, told in events if action == "die")
    assert re.fullmatch(r"[-0-9]{10}T[:0-9]{8}\.\d{9}Z", first["started_at"])


def test_who_follows_a_log_too_slowly_misses_nothing(home: Home) -> None:
    count = 20_000
    line = "line $i ..............................................................................."
    script = f"read go; i=0; while [ $i -lt {count} ]; do echo {line}; i=$((i+1)); done; read end"
    home.do("boot", "-d", "-i", "--name", "talker", "--entrypoint", "", home.link, "--", "sh", "-c", script)
    with running(home.node.start("logs", "-f", "talker")) as follower:
        with running(home.node.start("attach", "talker")) as attached:
            assert attached.stdin is not None
            attached.stdin.write("go\n")
            attached.stdin.flush()
            last = f"line {count - 1} "
            wait_until(lambda: last in home.do("logs", "--tail", "1", "talker"), "all is printed")
            attached.stdin.write("end\n")
            attached.stdin.flush()
            out, err = follower.communicate(timeout=300)  # only now is anything of it read
            attached.communicate(timeout=120)
    assert (follower.returncode, err) == (0, "")
    assert [int(row.split()[1]) for row in out.splitlines()] == list(range(count))


class _Collector:
    """Takes traces in."""

    def __init__(self) -> None:
        self.taken: list[ExportTraceServiceRequest] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["more_body"]:
            body += message["body"]
        self.taken.append(ExportTraceServiceRequest.FromString(body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def test_a_boot_in_the_background_is_a_trace(home: Home) -> None:
    collector = _Collector()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        await nursery.start(partial(serve_http, listener, collector, None))
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{listener.socket.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
            "TRACEPARENT": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
        }
        node = Node(home.node.home, environment=environment)
        run = partial(node.run, "boot", "-d", "--timings", "--name", "traced", home.link)
        done = await trio.to_thread.run_sync(run)
        nursery.cancel_scope.cancel()
    assert done.returncode == 0, done.stderr
    (request,) = collector.taken
    (resource,) = request.resource_spans
    spans = {span.name: span for scope in resource.scope_spans for span in scope.spans}
    stages = ["command line", "node", "keeper", "log", "manifest", "header", "mount", "start"]
    assert list(spans) == [*stages, "boot"]
    boot = spans["boot"]
    assert boot.trace_id.hex() == "0123456789abcdef0123456789abcdef"
    assert {spans[stage].parent_span_id for stage in stages} == {boot.span_id}
    assert {one.key: one.value.string_value for one in boot.attributes}["hypernode.container"] == "traced"
    assert len([row for row in done.stderr.splitlines() if " ms  " in row]) == len(stages) + 1
