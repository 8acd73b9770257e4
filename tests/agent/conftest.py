from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent.driver import Host

import distrain
from distrain.launcher.hosts.bundle import PARTS


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A code cache that all tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def open_host(cache: Path) -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def open_one(**options: object) -> Host:
        hosts.append(Host(**{"cache": cache, **options}))  # type: ignore[arg-type]
        return hosts[-1]

    yield open_one
    for host in hosts:
        host.end()


@pytest.fixture
def host(open_host: Callable[..., Host]) -> Host:
    return open_host()


@pytest.fixture
def copied_package(tmp_path: Path) -> Path:
    """A copy of what travels of distrain, to be changed and bundled."""
    package = Path(distrain.__file__).parent
    copy = tmp_path / "distrain"
    copy.mkdir()
    for part in PARTS:
        if (package / part).is_dir():
            shutil.copytree(package / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(package / part, copy / part)
    return copy
