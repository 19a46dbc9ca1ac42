# Sourced by the scripts beside it (POSIX sh, from the top of the checkout). Brings the machine to where hypernode
# runs: Debian packages, then a virtual environment .venv made from the lock files, then this checkout in it.
#
#   ensure run      what hypernode itself needs
#   ensure test     and what the checks, tests and benchmarks need
#
# Nothing is done that is done already: `.venv/stamp-*` holds the checksum of what an environment was made from.

run_packages="python3-venv python3-dev gcc libc6-dev pkg-config libfuse3-dev libgmp-dev fuse3 systemd-container
mmdebstrap iproute2 kmod util-linux slirp4netns"
test_packages="luajit erofs-utils qemu-system-x86 attr libcap2-bin busybox-static skopeo umoci docker-registry buildah podman runc
openssh-server openssh-client openssl chromium squashfs-tools squashfs-tools-ng e2fsprogs
fuse2fs libnbd-bin iptables"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $1"
    shift
    for hint in "$@"; do say "       $hint"; done
    exit 1
}

# The interpreter to build .venv from: $PYTHON, else python3, if it is 3.11 to 3.13 (what the lock files serve).
find_python() {
    for candidate in ${PYTHON:-} python3 /usr/bin/python3 python3.11 python3.12 python3.13; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "no Python 3.11, 3.12 or 3.13 found" "install python3, or name one: PYTHON=/path/to/python3 $0"
}

missing_packages() {
    command -v dpkg-query >/dev/null || die "this is no Debian system: dpkg-query is missing" "install by hand: $*"
    # shellcheck disable=SC2016 # ${…} is dpkg-query's
    have=$(dpkg-query --show --showformat='|${Package} ${db:Status-Status}|' 2>/dev/null)
    for package in "$@"; do
        case $have in *"|$package installed|"*) ;; *) printf '%s ' "$package" ;; esac
    done
}

# A long command runs silently; if it fails, the end of what it said is shown.
quietly() {
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 25 "$log" | sed 's/^/  | /' >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

ensure_packages() {
    # shellcheck disable=SC2086 # a list of words
    missing=$(missing_packages $1)
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || die "Debian packages are missing and only root can install them" "as root: apt-get install $missing"
    say "setup: installing Debian packages: $missing"
    export DEBIAN_FRONTEND=noninteractive
    # A stale package index names files that are gone, so it is renewed first; an old one is better than none.
    quietly apt-get update -q || say "setup: the package index could not be renewed, going on with the old one"
    # shellcheck disable=SC2086
    quietly apt-get install -q -y --no-install-recommends $missing ||
        die "apt-get could not install: $missing" "is the network there, and a Debian mirror set up?"
    # Its package starts a registry that listens on all interfaces; the tests start one of their own.
    case " $missing " in
    *" docker-registry "*)
        if [ -d /run/systemd/system ]; then quietly systemctl disable --now docker-registry || true; fi
        ;;
    esac
}

pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input "$@"; }

# $1: run or test. Build requirements come first and from a lock file too: source packages then build with exactly
# those (--no-build-isolation), not with whatever is newest that day.
make_environment() {
    lock=requirements.lock
    [ "$1" = run ] || lock=requirements-dev.lock
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
        say "setup: making .venv with $($python --version)"
        rm -rf .venv
        quietly "$python" -m venv .venv || die "$python could not make a virtual environment"
    fi
    rm -f .venv/stamp-*
    say "setup: installing the Python packages of $lock (pyfuse3 and others are compiled: about a minute)"
    quietly pip install --require-hashes -r requirements-build.lock ||
        die "pip could not install requirements-build.lock" "is the network there, and a package index set up?"
    quietly pip install --require-hashes --no-build-isolation -r "$lock" ||
        die "pip could not install $lock" "is the network there, and a package index set up?"
    # libp2p brings trio-typing, whose stubs are of trio 0.16 and would hide the types that trio itself has since 0.23.
    rm -rf .venv/lib/python3*/site-packages/trio-stubs
    # Editable by a plain path: the import hook that is the default costs every start tens of milliseconds.
    quietly pip install --no-deps --no-build-isolation --config-settings editable_mode=compat --editable . ||
        die "pip could not install this checkout"
}

ensure() {
    kind=$1
    packages=$run_packages
    [ "$kind" = run ] || packages="$run_packages $test_packages"
    ensure_packages "$packages"
    python=$(find_python) || exit 1
    # Where the checkout lies counts: an editable install points at it.
    wanted=$({ cat requirements*.lock pyproject.toml scripts/lib.sh; pwd; } | sha256sum)
    for made in test "$kind"; do
        if [ "$(cat ".venv/stamp-$made" 2>/dev/null)" = "$wanted" ] && [ -x .venv/bin/python ]; then return 0; fi
    done
    make_environment "$kind"
    printf '%s\n' "$wanted" >".venv/stamp-$kind"
    say "setup: ready"
}
