"""What tests have measured, as tables of docs: faults and equivalence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import equivalence_table
import fault_table
import pytest
from equivalence_table import Accuracy, Difference
from fault_run import Outcome
from fault_table import Row

FAULTS = pytest.StashKey[list[Row]]()
EQUIVALENCE = pytest.StashKey[list[Difference | Accuracy]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-faults", action="store_true", help="try every fault, not a few for each strategy")
    parser.addoption("--all-models", action="store_true", help="train large models under every strategy, not under one")
    parser.addoption("--write-faults", metavar="FILE", help="write what came of the faults into FILE, as a table")
    parser.addoption("--write-equivalence", metavar="FILE", help="write how far losses were from OneDevice's into FILE")


@pytest.fixture
def all_faults(request: pytest.FixtureRequest) -> bool:
    """Whether every fault is to be tried, which takes minutes."""
    return bool(request.config.getoption("--all-faults"))


@pytest.fixture
def all_models(request: pytest.FixtureRequest) -> bool:
    """Whether large models are to be trained under every strategy, which takes minutes."""
    return bool(request.config.getoption("--all-models"))


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str, str, str, Outcome], None]:
    """Keeps what came of a fault: its name, the strategy, the place, the outcome."""
    rows = request.config.stash.setdefault(FAULTS, [])
    return lambda fault, strategy, place, outcome: rows.append(Row(fault, strategy, place, outcome))


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> Callable[[Difference | Accuracy], None]:
    """Keeps what a strategy or a key came to."""
    return request.config.stash.setdefault(EQUIVALENCE, []).append


def pytest_sessionfinish(session: pytest.Session) -> None:
    option, stash = session.config.getoption, session.config.stash
    if file := option("--write-faults"):
        Path(file).write_text(fault_table.table(stash.get(FAULTS, [])))
    if file := option("--write-equivalence"):
        Path(file).write_text(equivalence_table.table(stash.get(EQUIVALENCE, [])))
