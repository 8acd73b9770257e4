"""Facts of a host that take programs to find out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agent.driver import Host

from distrain.launcher.hosts.bundle import make_bundle
from distrain.wire import AgentNote, Examine, Examined, Ping, Pong

pytestmark = pytest.mark.processes


def examine(host: Host, python: str = sys.executable) -> Examined:
    host.link.send(Examine(python))
    return host.wait_for(Examined)


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o700)
    return str(path)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the tasks' import path, with packages that must not be imported."""
    folder = tmp_path / "packages"
    for module, package, version in (
        ("tensorflow", "tensorflow_cpu", "99.1"),
        ("keras", "keras", "98.2"),
        ("torch", "", ""),
    ):
        (folder / module).mkdir(parents=True)
        (folder / module / "__init__.py").write_text("raise SystemExit('imported')")
        if package:
            about = folder / f"{package}-{version}.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def bare_python(folder: Path) -> str:
    """An interpreter that knows of no package but those on PYTHONPATH."""
    return script(folder / "bare python", f'exec {sys.executable} -S "$@"\n')


@pytest.mark.usefixtures("packages")
def test_versions_are_told_without_an_import(open_host: Callable[..., Host], tmp_path: Path) -> None:
    before = time.time()
    told = examine(open_host(), bare_python(tmp_path))
    assert told.error is None
    own = ".".join(map(str, sys.version_info[:3]))
    assert told.versions == {"python": own, "tensorflow": "99.1", "keras": "98.2", "torch": "unknown"}
    assert before <= told.time <= time.time()


def test_what_is_not_installed_is_left_out(open_host: Callable[..., Host], tmp_path: Path) -> None:
    told = examine(open_host(), bare_python(tmp_path))
    assert told.error is None
    assert set(told.versions) == {"python"}


def test_free_bytes_are_those_of_the_runs_disk(open_host: Callable[..., Host], tmp_path: Path) -> None:
    host = open_host(cache=tmp_path)
    folder = host.open_run().folder
    disk = os.statvfs(folder)
    assert abs(examine(host).free_bytes - disk.f_bavail * disk.f_frsize) < 1 << 30


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo no shared library >&2; exit 127\n", "exit code 127"),
        ("echo hello\n", "hello"),
        ("echo [1]\n", "could not tell"),
        ("kill -9 $$\n", "exit code -9"),
    ],
)
def test_an_interpreter_that_cannot_tell(open_host: Callable[..., Host], tmp_path: Path, text: str, words: str) -> None:
    host = open_host()
    told = examine(host, script(tmp_path / "python; exit 1", text))
    assert told.versions == {}
    assert told.error is not None
    assert told.error.startswith(f"{tmp_path}/python; exit 1 could not tell")
    assert words in told.error
    assert "--python" in told.error
    assert told.free_bytes > 0
    assert not host.all(AgentNote)


@pytest.mark.parametrize("python", ["no-such-python", "/etc/passwd", "/etc", "--version"])
def test_an_interpreter_that_cannot_be_started(open_host: Callable[..., Host], python: str) -> None:
    told = examine(open_host(), python)
    assert told.error is not None
    assert told.error.startswith(python)
    assert "--python" in told.error


def test_noise_before_the_answer_is_passed_over(open_host: Callable[..., Host], tmp_path: Path) -> None:
    noisy = script(tmp_path / "python", f'printf "no newline at the end"; exec {sys.executable} "$@"\n')
    assert examine(open_host(), noisy).error is None


def test_an_interpreter_that_hangs_holds_nothing_up(
    open_host: Callable[..., Host], copied_package: Path, tmp_path: Path
) -> None:
    module = copied_package / "agent" / "examine.py"
    source = module.read_text()
    assert "_TIMEOUT_S = 20.0" in source
    module.write_text(source.replace("_TIMEOUT_S = 20.0", "_TIMEOUT_S = 1.0"))
    host = open_host(bundle=make_bundle(copied_package))
    host.link.send(Examine(script(tmp_path / "python", "sleep 600 & sleep 600\n")))
    host.link.send(Ping(1))
    host.wait_for(Pong)
    assert not host.all(Examined)
    told = host.wait_for(Examined)
    assert "did not answer within 1 s" in str(told.error)
    host.until(lambda: len(host.processes()) == 2, "only guard and agent are left")


def test_gpus_are_told_by_name(open_host: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(
        tmp_path / "nvidia-smi",
        '[ "$*" = -L ] || exit 1\n'
        "echo 'GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268)'\n"
        "echo '  MIG 1g.5gb Device 0: (UUID: MIG-c6d4f1ef-42e4)'\n"
        "echo 'GPU 1: Tesla T4 (UUID: GPU-0d1f)'\n",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert examine(open_host()).gpus == ("NVIDIA A100-SXM4-40GB", "Tesla T4")


def test_ending_meanwhile_leaves_nothing(open_host: Callable[..., Host], tmp_path: Path) -> None:
    host = open_host()
    host.link.send(Examine(script(tmp_path / "python", "sleep 600 & sleep 600\n")))
    host.until(lambda: len(host.processes()) >= 4, "the interpreter runs")
    host.link.hang_up()
    assert host.nothing_left() < 5.0
