"""Counts how the damaged inputs ended, and shows it at the end of a run in one process."""

import os
from collections.abc import Iterator

import pytest

from tests.fuzz.damage import TALLY, name_tally


@pytest.fixture(autouse=True)
def _tally(request: pytest.FixtureRequest) -> Iterator[None]:
    name_tally(request.node.name)
    yield
    name_tally(None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ or not TALLY:
        return
    terminalreporter.section("damaged inputs")
    for name in sorted({name for name, _ in TALLY}):
        ended = {how: number for (one, how), number in sorted(TALLY.items()) if one == name}
        counts = ", ".join(f"{number} {how}" for how, number in ended.items())
        terminalreporter.line(f"{name}: {sum(ended.values())} tried, {counts}")
