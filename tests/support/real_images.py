"""Real images of three layers each, as people make them: a base system, packages over it, an application over those.

The packages are installed by apt over a copy of the base, and umoci cuts the layers (with the whiteouts that apt's
removals make), so nothing of ours takes part. Built once and kept, as the base is.
"""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.cache import kept
from tests.support.debian_root import debian_root, debootstrap

PAGE = "<p>served lazily</p>\n"


@dataclass(frozen=True)
class Recipe:
    """`command` run in the image prints `output`."""

    package: str
    add_application: Callable[[Path], None]
    config: Mapping[str, str]
    command: tuple[str, ...]
    output: str


def _nginx(root: Path) -> None:
    (root / "srv" / "www").mkdir()
    (root / "srv" / "www" / "index.html").write_text(PAGE)
    (root / "etc/nginx/sites-enabled/default").unlink()
    site = "server { listen 8080; root /srv/www; }\n"
    (root / "etc/nginx/conf.d/site.conf").write_text(site)
    fetch = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8080').read().decode(), end='')"
    _add_answer(root, f'set -e\nnginx\npython3 -c "{fetch}"\nnginx -s quit\n')


def _postgres(root: Path) -> None:
    _add_answer(root, "set -e\npg_ctlcluster 15 main start\npsql -Atc 'select 6 * 7'\npg_ctlcluster 15 main stop\n")
    # Left out, so that the layer has opaque and removed directories; nothing that runs needs them.
    shutil.rmtree(root / "usr/share/postgresql/15/man")
    shutil.rmtree(root / "usr/share/doc/postgresql-common")
    # As the image that everybody uses has it; a package leaves it to what starts the system.
    user = (root / "var/lib/postgresql").stat()
    (root / "run/postgresql").mkdir()
    os.chown(root / "run/postgresql", user.st_uid, user.st_gid)
    (root / "run/postgresql").chmod(0o2775)


def _python(root: Path) -> None:
    package = root / "usr/lib/python3/dist-packages/application"
    package.mkdir()
    (package / "__init__.py").write_text("import numpy\nprint(int(numpy.arange(10).sum()))\n")
    os.utime(package / "__init__.py", ns=(0, 1_700_000_000_123_456_789))


def _add_answer(root: Path, script: str) -> None:
    (root / "usr/local/bin/answer").write_text(script)
    (root / "usr/local/bin/answer").chmod(0o755)


RECIPES = {
    "nginx": Recipe(
        "nginx-light",
        _nginx,
        {"config.cmd": "/usr/sbin/nginx", "config.stopsignal": "SIGQUIT", "config.exposedports": "8080/tcp"},
        ("/bin/sh", "/usr/local/bin/answer"),
        PAGE,
    ),
    "postgres": Recipe(
        "postgresql",
        _postgres,
        {"config.user": "postgres", "config.volume": "/var/lib/postgresql", "config.stopsignal": "SIGINT"},
        ("/bin/sh", "/usr/local/bin/answer"),
        "42\n",
    ),
    "python": Recipe(
        "python3-numpy",
        _python,
        {"config.entrypoint": "/usr/bin/python3", "config.env": "PYTHONDONTWRITEBYTECODE=1"},
        ("-c", "import application"),
        "45\n",
    ),
}


def real_image(name: str) -> Path:
    """An OCI layout with the image under the reference `image`. Read-only. Raises `OSError`."""
    recipe = RECIPES[name]
    text = "\n".join(
        [str(debian_root()), repr(recipe.config), recipe.package, inspect.getsource(sys.modules[__name__])]
    )
    return kept(text, lambda layout: _build(recipe, layout))


def _build(recipe: Recipe, layout: Path) -> None:
    def umoci(*argv: str | Path) -> None:
        subprocess.run(["umoci", *map(str, argv)], check=True, capture_output=True)

    image, bundle = f"{layout}:image", layout.parent / "bundle"
    umoci("init", "--layout", layout)
    umoci("new", "--image", image)
    umoci("unpack", "--image", image, bundle)
    root = bundle / "rootfs"

    def add_layer() -> None:
        umoci("repack", "--refresh-bundle", "--image", image, bundle)

    root.rmdir()
    subprocess.run(["cp", "-a", debian_root(), root], check=True)
    add_layer()
    shutil.rmtree(root)
    copy = f'cp -a {debian_root()}/. "$1"'
    # A just-in-time compiler of 120 MB that no query here is long enough for.
    leave_out = [f"--dpkgopt=path-exclude={path}" for path in ("/usr/lib/*/libLLVM*", "*/bitcode/*")]
    debootstrap(root, "--variant=custom", f"--include={recipe.package}", f"--setup-hook={copy}", *leave_out)
    add_layer()
    recipe.add_application(root)
    add_layer()
    settings = [word for key, value in recipe.config.items() for word in (f"--{key}", value)]
    umoci("config", "--image", image, *settings)
    umoci("gc", "--layout", layout)
    shutil.rmtree(bundle)
