"""The examples of docs/API.md, run as they stand there against a daemon, and the HTTP interface of a real one."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.nodes import Node, daemon
from tests.support.sources import TOP

pytestmark = pytest.mark.slow

EXPECTED = ["", "version 1", "as expected: this node has nothing mounted", "events"]
"""What each example prints, in part."""


def test_examples_of_the_documentation(tmp_path: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", (TOP / "docs/API.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == len(EXPECTED)
    node = Node(tmp_path / "home")
    environment = {**os.environ, "HYPERNODE_HOME": str(node.home), "PYTHONPATH": str(TOP)}
    with daemon(node):
        for example, words in zip(examples, EXPECTED, strict=True):
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", example],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, example + done.stderr
            assert words in done.stdout, done.stdout


def test_a_daemon_serves_the_api_with_tls_and_a_token(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-out", str(certificate), "-keyout", str(key)]
    subprocess.run(["openssl", "req", "-x509", *kind, *name, *files], check=True, capture_output=True)
    node = Node(tmp_path / "home")
    options = ["--http", "127.0.0.1:0", "--http-cert", str(certificate), "--http-key", str(key)]
    with daemon(node, options=options):
        url = node.status()["sites"]["api"]
        assert url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(certificate))
        token = (node.home / "keys/http-token").read_text().strip()
        with urllib.request.urlopen(f"{url}/healthz", context=trusting, timeout=60) as answer:
            assert answer.read() == b"ok\n"
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(f"{url}/v1/status", context=trusting, timeout=60)
        refused.value.close()
        asked = urllib.request.Request(f"{url}/v1/status", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, context=trusting, timeout=60) as answer:
            assert json.load(answer)["result"]["sites"] == {"api": url}
        opened = node.run("dashboard")
        assert opened.stdout == f"{url}/#{token}\n", opened.stderr
        once = json.loads(node.run("top", "--json", "--once").stdout)
        assert (once["sites"], once["rate_in"], once["mounts"]) == ({"api": url}, 0, [])
        shown = node.run("top").stdout
        assert shown.startswith(f"hypernode {once['peer_id']}")
        log = node.run("events", "--since", "1h", "--no-follow", "--json")
    assert [json.loads(line)["action"] for line in log.stdout.splitlines()] == ["start"]
    closed = node.run("dashboard")
    assert (closed.returncode, closed.stdout) == (6, "")
    assert token not in log.stdout + log.stderr


def test_what_is_not_safe_is_refused(tmp_path: Path) -> None:
    done = Node(tmp_path / "home").run("daemon", "--http", "0.0.0.0:0")
    assert done.returncode == 4
    assert "needs TLS" in done.stderr
    assert "Traceback" not in done.stderr
