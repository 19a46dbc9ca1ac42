"""Containers in the background, through the real command line: they outlive the terminal and are reached into."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import Home, nothing_of_containers_left, share
from tests.support.nodes import Node, daemon, running, wait_until
from tests.vmhost.support import make_busybox_root, needs_programs
from vmhost.cgroup import hierarchies

pytestmark = [pytest.mark.real, needs_programs]

_FOREVER = "while true; do sleep 1; done"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """With a daemon."""
    node = Node(tmp_path / "home")
    root = make_busybox_root(tmp_path / "root")
    with daemon(node):
        with nothing_of_containers_left(node.home):
            home = share(node, root)
            try:
                yield home
            finally:
                for identity in home.do("ps", "-aq", "--no-trunc").split():
                    home.do("rm", "-f", identity)


def test_the_life_of_a_container(home: Home) -> None:
    identity = home.boot("--name", "one", "--label", "job=x", script=f"echo up; echo oops >&2; {_FOREVER}")
    assert len(identity) == 64
    home.wait_log("one", "up")
    assert home.names() == home.names("--label", "job=x") == ["one"]
    assert home.names("--label", "job=y") == []
    row = home.do("ps").splitlines()[1]
    assert identity[:12] in row
    assert "Up " in row

    assert home.do("exec", "one", "sh", "-c", "echo kept > /data/kept; exit 7", status=7) == ""
    assert home.do("exec", "-i", "one", "--", "cat", stdin="through\n") == "through\n"
    assert home.do(
        "exec", "-e", "A=b", "-w", "/data", "-u", "12:34", "one", "sh", "-c", "echo $A; pwd; id -u; id -g"
    ) == ("b\n/data\n12\n34\n")
    home.do("exec", "one", "nosuch", status=127)
    home.do("exec", "one", "--", status=2)
    home.do("exec", "one", "/data/file0", status=126)

    with running(home.node.start("wait", "one")) as waiting:
        home.do("stop", "--time", "60", "one")
        assert waiting.communicate(timeout=60)[0] == "143\n"
    state = home.inspect("one")["state"]
    assert (state["status"], state["exit_code"], state["pid"], state["stopped"]) == ("exited", 143, 0, True)
    assert home.names() == []
    assert "Exited (143)" in home.do("ps", "-a")
    assert home.do("wait", "one") == "143\n"
    home.do("stop", "one")
    home.do("kill", "one", status=5)
    home.do("exec", "one", "true", status=5)

    home.do("start", identity[:12])
    assert home.do("exec", "one", "cat", "/data/kept") == "kept\n"
    home.do("start", "one")  # runs: nothing happens
    home.do("rm", "one", status=5)
    home.do("restart", "--time", "0", "one")
    assert home.do("exec", "one", "cat", "/data/kept") == "kept\n"
    home.do("kill", "one")
    home.wait_status("one", "exited")
    assert home.state("one")["exit_code"] == 137
    home.do("rm", "one")
    for verb in ("inspect", "logs", "stop", "start", "rm", "wait"):
        home.do(verb, "one", status=3)


def test_events_have_dockers_names(home: Home) -> None:
    home.boot("--rm", "--name", "brief", script="exit 3")
    wait_until(lambda: home.names("-a") == [], "it is removed")
    lines = home.do("events", "--since", "1h", "--no-follow", "--json", "--filter", "type=container").splitlines()
    events = [json.loads(line) for line in lines]
    actions = [event["action"] for event in events]
    assert [action for action in actions if action in ("create", "start", "die", "destroy")] in (
        ["create", "start", "die", "destroy"],
        ["create", "die", "destroy"],  # so short that its program was never seen
    )
    assert next(event for event in events if event["action"] == "die")["attributes"]["exitCode"] == "3"
    assert {event["attributes"]["name"] for event in events} == {"brief"}


def test_logs_are_kept_followed_and_filtered(home: Home) -> None:
    script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done; read go; echo last; printf end"
    home.boot("-i", "--name", "talker", script=script)
    home.wait_log("talker", "out 3")
    wait_until(lambda: "err 3" in home.node.run("logs", "talker").stderr, "all of it")
    done = home.node.run("logs", "talker")
    assert (done.stdout, done.stderr) == ("out 1\nout 2\nout 3\n", "err 1\nerr 2\nerr 3\n")
    assert home.do("logs", "--tail", "0", "talker") == ""
    stamp, _, text = home.do("logs", "-t", "talker").splitlines()[1].partition(" ")
    assert text == "out 2"
    assert home.do("logs", "--since", stamp, "talker").splitlines() == ["out 2", "out 3"]
    assert home.do("logs", "--until", stamp, "talker") == "out 1\n"
    with running(home.node.start("logs", "-f", "talker")) as follower:
        assert follower.stdout is not None
        assert [follower.stdout.readline() for _ in range(3)] == ["out 1\n", "out 2\n", "out 3\n"]
        with running(home.node.start("attach", "talker")) as attached:
            out, _ = attached.communicate("go\n", timeout=120)
            assert attached.returncode == 0
        assert out == "last\nend"
        out, err = follower.communicate(timeout=120)
        assert (out, err) == ("last\nend", "err 1\nerr 2\nerr 3\n")
    assert home.do("logs", "talker").endswith("last\nend")  # after its end as well


def test_a_terminal_inside(home: Home) -> None:
    home.boot("-i", "-t", "--name", "tty", script="tty; stty size; read word; echo got $word")
    ours, theirs = pty.openpty()
    try:
        words = ["exec", "-i", "-t", "tty", "sh", "-c", "tty; read word; echo got $word; exit 5"]
        with running(home.node.start(*words, stdin=theirs, stdout=theirs, stderr=theirs)) as process:
            _expect(ours, b"/dev/pts/")
            os.write(ours, b"keys\n")
            _expect(ours, b"got keys")
            assert process.wait(120) == 5
        with running(home.node.start("attach", "tty", stdin=theirs, stdout=theirs, stderr=theirs)) as process:
            wait_until(lambda: "attach" in home.do("events", "--since", "1h", "--no-follow"), "attached")
            os.write(ours, b"\x10\x11")
            assert process.wait(120) == 0
        _expect(ours, b"detached")
    finally:
        os.close(ours)
        os.close(theirs)
    assert home.names() == ["tty"]
    with running(home.node.start("attach", "tty")) as process:
        out, _ = process.communicate("word\n", timeout=120)
    assert "got word" in out
    home.wait_status("tty", "exited")


def _expect(descriptor: int, text: bytes) -> None:
    seen = b""
    while text not in seen:
        piece = os.read(descriptor, 4096)
        assert piece, seen
        seen += piece


def test_what_it_sees(home: Home, tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/file").write_text("from the host")
    (tmp_path / "env").write_text("# of a file\nONE=1\nTWO=2\n")
    options = ["--env-file", str(tmp_path / "env"), "-e", "TWO=two", "--hostname", "box", "-w", "/data/sub"]
    binds = ["--bind", f"{tmp_path}/shown:/shown:ro", "-v", "named:/named"]
    script = (
        "echo $ONE $TWO $(cat /proc/sys/kernel/hostname) $(pwd); cat /shown/file; echo;"
        " echo x > /shown/new; echo y > /named/new; echo z > /z; "
    )
    home.boot("--name", "first", *options, *binds, "--read-only", script=script + _FOREVER)
    log = home.wait_log("first", "from the host")
    assert log.splitlines() == ["1 two box /data/sub", "from the host"]
    wait_until(lambda: "/z" in home.node.run("logs", "first").stderr, "all three writes")
    errors = home.node.run("logs", "first").stderr
    assert "/shown/new" in errors
    assert "/named/new" not in errors
    assert sorted(os.listdir(tmp_path / "shown")) == ["file"]
    assert home.boot("--name", "second", "-v", "named:/again:ro", script="cat /again/new")
    home.wait_log("second", "y")
    done = home.node.run("boot", "-d", "--bind", "/no/such/place:/x", home.link, "--", "true")
    assert done.returncode != 0
    assert "/no/such/place" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_command_line_has_its_variables(home: Home, tmp_path: Path) -> None:
    (tmp_path / "variables").write_text("FROM_FILE=5ecret-file\n")
    given = ("--env-file", str(tmp_path / "variables"), "-e", "INHERITED")
    node = Node(home.node.home, environment={"INHERITED": "5ecret-inherited"})
    for name, user in (("root", "root"), ("other", "12:34")):
        script = f"echo $FROM_FILE $INHERITED $(id -u); {_FOREVER}"
        argv = ("boot", "-d", "--name", name, "-u", user, *given, home.link, "--", "sh", "-c", script)
        assert node.run(*argv).returncode == 0
        home.wait_log(name, f"5ecret-file 5ecret-inherited {user.split(':')[0].replace('root', '0')}")
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended
                assert b"5ecret" not in process.read_bytes()


def test_a_published_port(home: Home) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home.boot("--name", "web", "-p", f"127.0.0.1:{port}:80", script="busybox httpd -f -p 127.0.0.1:80 -h /data")
    wanted = (home.node.home.parent / "root/data/file1").read_bytes()

    def fetch() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"GET /file1 HTTP/1.0\r\n\r\n")
            with connection.makefile("rb") as file, contextlib.suppress(ConnectionResetError):
                return file.read().partition(b"\r\n\r\n")[2]
        return b""

    wait_until(lambda: fetch() == wanted, "the port answers")
    assert f"127.0.0.1:{port}->80/tcp" in home.do("ps")
    done = home.node.run("boot", "-d", "--name", "late", "-p", f"127.0.0.1:{port}:80", home.link, "--", "true")
    assert done.returncode != 0
    assert "cannot be published" in done.stderr
    home.do("rm", "-f", "web")
    with pytest.raises(ConnectionRefusedError):
        fetch()
    assert home.state("late")["status"] == "exited"


def test_limits_hold_and_are_told(home: Home) -> None:
    found = hierarchies()
    limited = {"memory", "pids"} <= (found.controllers | found.old.keys())
    options = ["--memory", "64M", "--pids-limit", "20"] if limited else []
    script = "cat /dev/zero | head -c 200000000 | tail -c 150000000 | wc -c; echo survived"
    home.boot("--name", "quiet", *options, script=_FOREVER)
    use = json.loads(home.do("stats", "--no-stream", "--json", "quiet"))["containers"][0]
    assert use["processes"] >= 1
    assert use["memory_bytes"] > 0
    if not limited:
        pytest.skip("limits: this host's control groups cannot be written to")
    assert use["memory_limit"] == 64_000_000 // 4096 * 4096
    home.boot("--name", "greedy", *options, script=script.replace("tail", "busybox tail"))
    home.wait_status("greedy", "exited")
    assert home.state("greedy")["oom_killed"] is True
    home.boot("--name", "forks", *options, script="for i in $(busybox seq 40); do sleep 60 & done; echo all")
    home.wait_status("forks", "exited")
    assert "all" not in home.do("logs", "forks")


def test_pause_and_processes(home: Home) -> None:
    if not hierarchies().unified:
        home.boot("--name", "one", script=_FOREVER)
        home.do("pause", "one", status=4)
        return
    home.boot("--name", "one", script="i=0; while true; do i=$((i+1)); echo $i > /tmp/count; done")
    home.do("pause", "one")
    assert "(Paused)" in home.do("ps")
    processes = int(home.inspect("one")["state"]["pid"])
    before = Path(f"/proc/{processes}/stat").read_text().split()[13:15]
    home.do("pause", "one", status=5)
    home.do("exec", "one", "true", status=5)
    assert Path(f"/proc/{processes}/stat").read_text().split()[13:15] == before  # no processor time meanwhile
    home.do("unpause", "one")
    wait_until(lambda: Path(f"/proc/{processes}/stat").read_text().split()[13:15] != before, "it goes on")
    home.do("pause", "one")
    home.do("stop", "--time", "60", "one")  # ends what is paused, too
    assert home.state("one")["exit_code"] == 143


def test_copying(home: Home, tmp_path: Path) -> None:
    home.boot("--name", "one", script=_FOREVER)
    home.do("cp", "one:/data", str(tmp_path))
    root = tmp_path / "root"
    assert (tmp_path / "data/file2").read_bytes() == (root / "data/file2").read_bytes()
    (tmp_path / "data/file2").write_text("changed")
    os.symlink("file2", tmp_path / "data/link")
    home.do("cp", str(tmp_path / "data"), "one:/tmp")
    home.do("cp", str(tmp_path / "data"), "one:/tmp/other")
    assert home.do("exec", "one", "cat", "/tmp/data/link", "/tmp/other/link") == "changedchanged"
    home.do("cp", "one:/tmp/data/file2", str(tmp_path / "named"))
    assert (tmp_path / "named").read_text() == "changed"
    home.do("cp", "one:/no/such", str(tmp_path), status=3)
    home.do("cp", str(tmp_path / "missing"), "one:/tmp", status=3)
    home.do("cp", str(tmp_path / "named"), "one:/no/such/place/x", status=3)
    home.do("cp", "a", "b", status=4)


def test_restart_policies(home: Home) -> None:
    home.boot("--name", "failing", "--restart", "on-failure:2", script="echo run; exit 9")
    home.boot("--name", "fine", "--restart", "on-failure", script="echo run")
    home.boot("--name", "always", "--restart", "always", script="echo run; sleep 0.1")
    home.wait_status("failing", "exited")
    assert (home.state("failing")["exit_code"], home.state("failing")["restart_count"]) == (9, 2)
    assert home.do("logs", "failing") == "run\n" * 3
    home.wait_status("fine", "exited")
    assert home.do("logs", "fine") == "run\n"
    wait_until(lambda: int(home.state("always")["restart_count"]) >= 2, "it is run again and again")
    home.do("stop", "--time", "0", "always")
    count = home.state("always")["restart_count"]
    assert home.state("always")["status"] == "exited"
    assert home.state("always")["restart_count"] == count


def test_a_container_in_the_foreground_is_listed_too(home: Home) -> None:
    with running(home.node.start("boot", "--name", "here", home.link, "--", "sh", "-c", "echo up; read go")) as boot:
        assert boot.stdout is not None
        assert boot.stdout.readline() == "up\n"
        wait_until(lambda: home.names() == ["here"], "it is listed")
        assert home.do("exec", "here", "echo", "in") == "in\n"
        home.do("logs", "here", status=5)
        home.do("stop", "here")
        assert boot.wait(120) == 143
    assert home.names("-a") == []


def test_wrong_wishes_are_told_in_words(home: Home) -> None:
    home.boot("--name", "one", script=_FOREVER)
    for words in (
        ["--name", "one"],
        ["--name", "a/b"],
        ["--restart", "sometimes"],
        ["--rm", "--restart", "always"],
        ["-p", "nonsense"],
        ["--memory", "much"],
        ["--cpus", "0"],
        ["--net", "bridge"],
        ["-e", "A B=1"],
        ["--user", "nobody-knows"],
    ):
        done = home.node.run("boot", "-d", *words, home.link, "--", "true")
        assert done.returncode == 125, (words, done)
        assert done.stdout == ""
        assert done.stderr.startswith("hypernode: "), words
        assert "Traceback" not in done.stderr
    for words in (["--restart", "always"], ["-t"]):
        assert home.node.run("boot", *words, home.link, "--", "true").returncode == 125


def test_without_a_daemon(tmp_path: Path) -> None:
    node = Node(tmp_path / "home")
    root = make_busybox_root(tmp_path / "root")
    with daemon(node):
        home = share(node, root)
    with nothing_of_containers_left(node.home):
        home.boot("--name", "one", script=f"echo one; {_FOREVER}")
        home.boot("--name", "two", script=f"echo two; {_FOREVER}")  # on the node that the first one's keeper is
        assert sorted(home.names()) == ["one", "two"]
        assert home.do("exec", "two", "echo", "in") == "in\n"
        home.do("stop", "--time", "0", "one")
        assert home.do("exec", "two", "sh", "-c", "cat /data/file0 | wc -c") == "300000\n"
        home.do("start", "one")
        home.do("rm", "-f", "one", "two")
        assert home.names("-a") == []


def test_the_daemons_orderly_end_and_start(tmp_path: Path) -> None:
    node = Node(tmp_path / "home")
    root = make_busybox_root(tmp_path / "root")
    with nothing_of_containers_left(node.home):
        with daemon(node):
            home = share(node, root)
            home.boot("--name", "always", "--restart", "always", script=f"echo up; {_FOREVER}")
            home.boot("--name", "once", script=_FOREVER)
            home.boot("--name", "stopped", "--restart", "unless-stopped", script=_FOREVER)
            home.do("stop", "--time", "0", "stopped")
        for name in ("always", "once"):
            home.wait_status(name, "exited")
            assert "node ended" in home.state(name)["error"]
        with daemon(node):
            home.wait_status("always", "running")
            assert home.wait_log("always", "up\nup\n")
            assert home.names() == ["always"]
            home.do("rm", "-f", "always", "once", "stopped")


def test_a_terminal_that_is_closed_ends_nothing(home: Home) -> None:
    """The command that booted it dies with its whole session, as a terminal's window takes it along."""
    words = home.node.argv("boot", "-d", "--name", "kept", home.link, "--", "sh", "-c", _FOREVER)
    environment = {**os.environ, "XDG_STATE_HOME": str(home.node.home.parent / "state")}
    with subprocess.Popen(words, start_new_session=True, env=environment, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: "kept" in home.names(), "it runs")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
    assert home.do("exec", "kept", "echo", "alive") == "alive\n"
