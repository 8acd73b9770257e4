"""The command line as a user meets it: exit codes, what is printed where, and what is imported for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

JOB = """\
name: small
dataset: {name: digits, batch_size: 64}
strategy: MultiWorkerMirrored
cluster: {workers: 2}
env: {GREETING: hello, API_TOKEN: hunter2}
"""
HEAVY = ("tensorflow", "keras", "numpy", "h5py")


def distrain(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distrain", *words]
    return subprocess.run(command, cwd=cwd, text=True, capture_output=True, timeout=60, check=False)


def modules_after(*words: str, cwd: Path) -> set[str]:
    """The names of all modules that a command has imported when it ends."""
    program = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['distrain', *{list(words)!r}]\n"
        "from distrain.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=cwd, text=True, capture_output=True, timeout=60, check=True
    )
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("MODULES "))
    return set(line.split()[1:])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def test_help_imports_click_and_little_else(folder: Path) -> None:
    modules = modules_after("--help", cwd=folder)
    assert "click" in modules
    unwanted = ("yaml", "rich", "asyncio", "distrain.job", "distrain.launcher", *HEAVY)
    assert not [name for name in modules if name.startswith(unwanted)]


@pytest.mark.parametrize("words", [("--version",), ("run", "job.yaml", "--dry-run"), ("validate", "job.yaml")])
def test_no_tensorflow_is_imported_where_nothing_trains(folder: Path, words: tuple[str, ...]) -> None:
    modules = modules_after(*words, cwd=folder)
    assert not [name for name in modules if name.split(".")[0] in HEAVY]


def test_version(folder: Path) -> None:
    done = distrain("--version", cwd=folder)
    assert done.returncode == 0
    assert done.stdout.startswith(f"distrain 0.1.0, Python {sys.version_info.major}.{sys.version_info.minor}.")


def test_dry_run_prints_every_task_and_starts_nothing(folder: Path) -> None:
    done = distrain("run", "job.yaml", "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "worker:0" in done.stdout
    assert "worker:1" in done.stdout
    assert '"task": {"type": "worker", "index": 1}' in done.stdout
    assert "hunter2" not in done.stdout
    assert os.listdir(folder) == ["job.yaml"]


def test_dry_run_as_json_is_the_plan(folder: Path) -> None:
    done = distrain("run", "job.yaml", "--dry-run", "--json", "--set", "cluster.workers=4", cwd=folder)
    plan = json.loads(done.stdout)
    assert plan["format"] == 1
    assert [task["task"] for task in plan["tasks"]] == [f"worker:{index}" for index in range(4)]
    assert {task["host"] for task in plan["tasks"]} == {"local"}
    for index, task in enumerate(plan["tasks"]):
        assert task["argv"][1:] == ["-m", "distrain.worker"]
        assert task["TF_CONFIG"]["task"] == {"type": "worker", "index": index}
        assert len(task["TF_CONFIG"]["cluster"]["worker"]) == 4
    assert "hunter2" not in done.stdout


def test_a_wrong_job_is_told_all_at_once_without_a_traceback(folder: Path) -> None:
    (folder / "job.yaml").write_text("name: x\nmodle: cnn\nstrategy: Miror\n")
    done = distrain("run", "job.yaml", cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "job.yaml:2:1: " in done.stderr
    assert "job.yaml:3:11: " in done.stderr
    assert "model" in done.stderr
    assert "Mirrored" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(folder) == ["job.yaml"]


def test_validate_speaks_of_every_job(folder: Path) -> None:
    (folder / "bad.yaml").write_text("name: x\nmodle: cnn\n")
    done = distrain("validate", "job.yaml", "bad.yaml", "missing.yaml", ".", cwd=folder)
    assert done.returncode == 2
    assert done.stdout == "job.yaml: ok\n"
    assert "bad.yaml:2:1: " in done.stderr
    assert "missing.yaml: " in done.stderr
    assert ".: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run",), "Missing argument 'JOB'"),
        (("rum", "job.yaml"), "No such command 'rum'"),
        (("run", "job.yaml", "--jsn"), "No such option"),
        (("run", "job.yaml", "--set", "epochs"), "epochs"),
        (("run", "job.yaml", "--set", "training.epoch=1"), 'did you mean "epochs"?'),
        (("run", "job.yaml", "--runs-dir", "job.yaml"), "job.yaml"),
        (("run", "job.yaml", "--name", "a/b"), "a/b"),
    ],
)
def test_a_wrong_command_exits_with_2_and_a_sentence(folder: Path, words: tuple[str, ...], said: str) -> None:
    done = distrain(*words, cwd=folder)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
