"""What all tests share: which of them run, and how hypothesis searches.

``--all`` or ``KVMLAB_ALL=1`` runs the tests marked ``long`` too, and lets hypothesis search longer.
``KVMLAB_REQUIRE=browser`` (names of markers, separated by commas) turns a skipped test of that
marker into a failure, so that a machine meant to run it cannot quietly leave it out.
"""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

BROWSER_TESTS = Path(__file__).parent / "browser"

# Machines differ in speed, so no example has a deadline and slow generation is no error.
# What fails prints a blob with which it can be repeated.
COMMON = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", COMMON)
settings.register_profile("all", COMMON, max_examples=1000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked long too")
    parser.addoption(
        "--vectors",
        action="append",
        metavar="FILE",
        help="test vectors for tests/test_vectors.py instead of the shipped ones; repeatable",
    )
    parser.addoption(
        "--counters",
        action="append",
        metavar="FILE",
        help="recorded counters for tests/test_kvm_counters.py instead of the shipped ones",
    )
    parser.addoption(
        "--captured",  # `--capture` is pytest's own
        action="append",
        metavar="FILE",
        help="captured guests for tests/test_captures.py instead of the shipped ones; repeatable",
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("all" if wants_all(config) else "quick")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's job in the background ignores interrupts, and so would all that tests start.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(BROWSER_TESTS):
            item.add_marker("browser")
    # Last, since Playwright keeps an event loop running, and labs ask whether one is.
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)
    long = [item for item in items if item.get_closest_marker("long")]
    if long and not wants_all(config):
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    missed = [name for name in required() if item.get_closest_marker(name)]
    if report.skipped and missed and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{report.longrepr} (KVMLAB_REQUIRE={missed[0]} allows no skip)"
    return report


def wants_all(config: pytest.Config) -> bool:
    """Whether the long tests were asked for."""
    return bool(config.getoption("--all")) or os.environ.get("KVMLAB_ALL") == "1"


def required() -> list[str]:
    """The markers whose tests must not be skipped."""
    return [name for name in os.environ.get("KVMLAB_REQUIRE", "").split(",") if name]
