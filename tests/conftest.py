"""Fixtures and rules for every test: nothing is left behind, real tests say what they miss, and CI runs them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import leftovers, real
from tests.support.debian_root import debian_root as build_debian_root
from tests.support.netns import NamespacePair, namespace_pair

# file of real tests → outcomes ("passed", "failed", "skipped") of its tests, for the rule about CI
_real_outcomes: defaultdict[str, set[str]] = defaultdict(set)


def pytest_configure() -> None:
    leftovers.become_reaper()
    # How long an example takes says something about the machine, and nothing about what is tested.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where kernel, processes and network are real, one failure in thousands of runs is the machine's: such a test gets
    a second try. The summary shows each that took it, as something to look into."""
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("real")
    if marker and (reason := real.missing(marker.args or real.USUAL)):
        pytest.skip(reason)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "real" in report.keywords and (report.when == "call" or report.skipped):
        _real_outcomes[report.location[0]].add(report.outcome)


def _skipped_whole() -> list[str]:
    """In CI a file of real tests that skips as a whole is a failure: it would promise what nobody checked."""
    if os.environ.get("CI") != "true":
        return []
    return sorted(path for path, outcomes in _real_outcomes.items() if outcomes == {"skipped"})


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped_whole() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for path in _skipped_whole():
        terminalreporter.write_line(f"FAILED {path}: all its real tests were skipped, which CI does not accept")


@pytest.fixture(autouse=True)
def nothing_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After each test: no mount, child process, thread or open file more than before."""
    under = tmp_path_factory.getbasetemp()
    before = leftovers.take(under)
    yield
    if found := leftovers.wait_for(before, under):
        leftovers.clear(before, under)
        pytest.fail("left behind:\n  " + "\n  ".join(found), pytrace=False)


@pytest.fixture
def make_namespaces() -> Iterator[Callable[[int | None], NamespacePair]]:
    """Makes a pair of network namespaces joined by a wire of so many Mbit/s (None: no limit)."""
    if reason := real.missing(["root", "netns", "tc"]):
        pytest.skip(reason)
    with ExitStack() as stack:

        def make(megabit: int | None) -> NamespacePair:
            return stack.enter_context(namespace_pair(megabit))

        yield make


@pytest.fixture
def namespaces(make_namespaces: Callable[[int | None], NamespacePair]) -> NamespacePair:
    """Two hosts joined by a wire of 100 Mbit/s."""
    return make_namespaces(100)


@pytest.fixture(scope="session")
def debian_root() -> Path:
    """A Debian root file system with python3 of 150 MB at least. Never written to."""
    if reason := real.missing(["root", "mmdebstrap"]):
        pytest.skip(reason)
    return build_debian_root()
