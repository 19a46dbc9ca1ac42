"""The import law holds, and the checker would notice if it did not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.layering import complaints
from tests.support.sources import TOP, package_files


def test_imports_obey_the_law() -> None:
    sources = {path: (TOP / path).read_text() for path in package_files()}
    assert len(sources) > 20
    found = complaints(sources)
    assert not found, "\n".join(found)


CLEAN = {
    "hyperlog/ids.py": "import hashlib",
    "hyperlog/keys.py": "import nacl.signing\nfrom hyperlog.ids import BlockId",
    "images/source.py": "import trio\nfrom hyperlog import ids",
    "swarm/net/host.py": "import libp2p, trio",
    "hypernode/cli/main.py": "def f():\n    from hyperlog.keys import KeyPair\n    import rich",
    "hypernode/node.py": "import images.source",
    "swarm/network.py": "import importlib\nimportlib.import_module('swarm.net.host')",
}


def test_a_lawful_tree_gives_no_complaint() -> None:
    assert complaints(CLEAN) == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("images/x.py", "import swarm.net.host", "images may not import swarm"),
        ("swarm/x.py", "from images.source import BlockSource", "swarm may not import images"),
        ("hyperlog/x.py", "from images.source import BlockSource", "hyperlog may not import images"),
        ("vmhost/x.py", "import hypernode.node", "vmhost may not import hypernode"),
        ("hyperlog/x.py", "import trio", "no trio here"),
        ("swarm/replication/x.py", "async def f():\n    import trio.lowlevel", "no trio here"),
        ("images/x.py", "from trio import Event", "no trio here"),
        ("swarm/x.py", "from libp2p.host import host", "libp2p is imported only in swarm/net/"),
        ("hyperlog/x.py", "import nacl.signing", "nacl is imported only in hyperlog/keys.py"),
        ("vmhost/x.py", "if TYPE_CHECKING:\n    import pyfuse3", "pyfuse3 is imported only in"),
        ("hypernode/x.py", "import numpy", "numpy has no door"),
        ("hypernode/x.py", "import swarm.net.host", "swarm.net.host loads libp2p"),
        ("swarm/x.py", "class A:\n    from swarm.net import host", "swarm.net.host loads libp2p"),
        ("images/x.py", "def f():\n    import json", "json is imported inside a function"),
        ("images/x.py", "import importlib\nimportlib.import_module('swarm')", "import_module hides"),
        ("hyperlog/x.py", "from hyperlog.gone import a", "there is no module hyperlog.gone"),
        (
            "hyperlog/ids.py",
            "from hyperlog.keys import KeyPair",
            "import cycle: hyperlog.ids → hyperlog.keys → hyperlog.ids",
        ),
    ],
)
def test_a_planted_breach_is_found(path: str, source: str, complaint: str) -> None:
    found = complaints({**CLEAN, path: source})
    assert any(complaint in line for line in found), found


def test_starting_the_command_line_loads_no_heavy_library() -> None:
    heavy = "{'libp2p', 'rocksdict', 'zeroconf'}"
    program = f"import sys, hypernode.cli.main; print(*sorted({heavy} & {{*sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=TOP, check=True, capture_output=True, text=True)
    assert loaded.stdout == "\n"
