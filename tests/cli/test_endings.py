"""How the command line ends when it is interrupted, or has nowhere to write or to stand."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distrain.job.spec import JobSpec
from distrain.launcher.run import run_job

pytestmark = pytest.mark.processes

TOY_WORKER = Path(__file__).parents[1] / "launcher" / "toy_worker.py"
DISTRAIN = (sys.executable, "-m", "distrain")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.yaml").write_text("{name: small, warm: false, env: {TOY: 'ready,train,done'}}")
    (tmp_path / "bad.yaml").write_text("modle: cnn")
    return tmp_path


@pytest.fixture
def toy_python(folder: Path) -> Path:
    """An interpreter whose tasks have little to do."""
    python = folder / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'if [ "$1 $2" = "-m distrain.worker" ]; then exec {sys.executable} -S {TOY_WORKER}; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return python


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A shell line in which "$@" is distrain."""
    command = ["/bin/sh", "-c", line, "sh", *DISTRAIN]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=60, check=False)


def program(text: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A Python program that ends with the command line's own `main`."""
    ending = f"\nsys.argv = ['distrain', *{list(words)!r}]\nfrom distrain.__main__ import main\nmain()\n"
    command = [sys.executable, "-c", "import sys, os, signal\n" + text + ending]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("words", ["--help", "--version", "validate job.yaml", "run job.yaml --dry-run --json"])
@pytest.mark.parametrize("buffering", ["", "PYTHONUNBUFFERED=1 "])
def test_a_full_disk_is_told_in_a_sentence(folder: Path, words: str, buffering: str) -> None:
    done = shell(f'{buffering}"$@" {words} >/dev/full', folder)
    assert done.returncode == 1
    assert done.stderr == (
        "distrain: the output cannot be written: No space left on device; make room, or send it elsewhere\n"
    )


@pytest.mark.parametrize(
    ("words", "code"), [("validate bad.yaml", 1), ("run bad.yaml", 2), ("run --jsn", 2), ("--help", 0)]
)
def test_a_full_disk_for_errors_changes_no_exit_code_to_success(folder: Path, words: str, code: int) -> None:
    assert shell(f'"$@" {words} 2>/dev/full', folder).returncode == code


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("words", "code"), [("validate job.yaml", 0), ("run job.yaml --dry-run", 0), ("run bad.yaml", 2), ("--jsn", 2)]
)
def test_closed_streams_are_written_to_without_a_word(folder: Path, closed: str, words: str, code: int) -> None:
    done = shell(f'"$@" {words} {closed}', folder)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("option", ["", "--json"])
def test_a_run_needs_nobody_who_sees_it(folder: Path, toy_python: Path, closed: str, option: str) -> None:
    main = folder / "main.py"
    main.write_text(
        "import atexit, os, sys\n"
        f"sys.executable = {str(toy_python)!r}\n"
        "numbers = [number for number in range(3) if not os.path.exists(f'/proc/self/fd/{number}')]\n"
        "def note(): open('note', 'w').write(' '.join(os.readlink(f'/proc/self/fd/{number}') for number in numbers))\n"
        "atexit.register(note)\n"
        "from distrain.__main__ import main\n"
        "main()\n"
    )
    done = shell(f'"$1" main.py run job.yaml {option} {closed}', folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "note").read_text().split() == ["/dev/null"] * closed.count("-")
    (rundir,) = (folder / "runs").iterdir()
    assert json.loads((rundir / "summary.json").read_text())["state"] == "succeeded"


@pytest.mark.parametrize("words", ["run /job.yaml --dry-run", "run /job.yaml"])
def test_a_deleted_folder_is_told_in_a_sentence(folder: Path, words: str) -> None:
    words = words.replace("/job.yaml", str(folder / "job.yaml"))
    done = shell(f'mkdir gone && cd gone && rmdir ../gone && exec "$@" {words}', folder)
    assert done.returncode == 2
    assert done.stderr == (
        "distrain: the current folder cannot be used: No such file or directory (has it been deleted?); "
        "change into another and run again\n"
    )


@pytest.mark.parametrize("module", ["click", "distrain.cli", "distrain.errors", "yaml"])
def test_an_interrupt_during_an_import_shows_no_traceback(folder: Path, module: str) -> None:
    interrupting = f"""
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""
    done = program(interrupting, "validate", "job.yaml", folder=folder)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_result_does_not_change_it(folder: Path, toy_python: Path, number: signal.Signals) -> None:
    late = f"""
import atexit
sys.executable = {str(toy_python)!r}
from distrain.cli import show
summary = show.summary

def after_the_run(result):
    os.kill(os.getpid(), {number})
    summary(result)

show.summary = after_the_run
atexit.register(os.kill, os.getpid(), {number})
"""
    done = program(late, "run", "job.yaml", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "succeeded"


def test_a_program_that_runs_a_job_has_its_signals_back(folder: Path, toy_python: Path) -> None:
    def handler(*_: object) -> None: ...

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        job = JobSpec("small", warm=False, env={"TOY": "ready,train,done"})
        assert run_job(job, runs_dir=folder / "runs", plain=True, python=str(toy_python)).exit_code == 0
        assert [signal.getsignal(number) for number in numbers] == [handler] * 3
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@pytest.mark.skipif("os.geteuid() == 0", reason="root may read everything")
@pytest.mark.parametrize("command", ["run", "validate"])
def test_an_unreadable_job_is_told_in_our_words(folder: Path, command: str) -> None:
    (folder / "job.yaml").chmod(0)
    done = shell(f'"$@" {command} job.yaml', folder)
    assert done.returncode == 2
    assert "job.yaml: the file cannot be read: Permission denied; check its name and its permissions" in done.stderr
