"""The run directory: its name, its modes, and that a file in it is whole or absent."""

import errno
import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distrain.errors import DistrainError, UsageError
from distrain.launcher.runs.rundir import RunDir, json_text

NOW = 1_790_000_000.0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs", "mnist", now=NOW)


def test_a_run_directory_is_named_after_job_and_time_and_is_private(tmp_path, open_umask):
    rundir = RunDir.create(tmp_path / "deep" / "runs", "mnist-2.x_a", now=NOW)
    assert re.fullmatch(r"mnist-2\.x_a-\d{8}-\d{6}-[a-z]{4}", rundir.name)
    assert rundir.path == tmp_path / "deep" / "runs" / rundir.name
    assert mode(rundir.path) == mode(rundir.logs) == mode(tmp_path / "deep" / "runs") == 0o700


def test_the_path_is_absolute_so_that_tasks_find_it_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunDir.create(Path("runs"), "a", now=NOW).path.is_absolute()


def test_many_runs_in_the_same_second_get_a_directory_each(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        runs = list(pool.map(lambda _: RunDir.create(tmp_path / "runs", "same", now=NOW), range(64)))
    assert len({run.path for run in runs}) == 64


def test_letters_that_are_taken_are_passed_over(tmp_path, monkeypatch):
    letters = iter("aaaaaaaabbbb")
    monkeypatch.setattr("distrain.launcher.runs.rundir.secrets.choice", lambda _: next(letters))
    assert RunDir.create(tmp_path, "x", now=NOW).name.endswith("-aaaa")
    assert RunDir.create(tmp_path, "x", now=NOW).name.endswith("-bbbb")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("a/b", "a-b"),
        ("../../etc", "etc"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("two words", "two-words"),
        ("_private", "private"),
        ("new\nline\x1b[2J", "new-line-2J"),
        ("nul\0", "nul-"),
        ("x" * 65, "x" * 64),
    ],
)
def test_a_name_that_cannot_be_a_folders_is_refused_with_one_that_can(tmp_path, name, suggestion):
    with pytest.raises(UsageError) as caught:
        RunDir.create(tmp_path, name, now=NOW)
    assert f"call it {suggestion!r}" in str(caught.value)
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []
    RunDir.create(tmp_path, suggestion, now=NOW)


@pytest.mark.parametrize("name", ["", "/", "..", "日本"])
def test_a_name_with_nothing_to_keep_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="choose another with --name"):
        RunDir.create(tmp_path, name, now=NOW)


def test_a_file_where_the_runs_should_go(tmp_path):
    (tmp_path / "runs").write_text("mine")
    for runs_dir in (tmp_path / "runs", tmp_path / "runs" / "below"):
        with pytest.raises(UsageError, match=r"no directory.*--runs-dir"):
            RunDir.create(runs_dir, "a", now=NOW)
    assert (tmp_path / "runs").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_may_not_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="may not be written to"):
        RunDir.create(tmp_path / "runs", "a", now=NOW)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "may not be written to by this user"),
        (errno.EROFS, "read-only file system"),
        (errno.ENOSPC, "full; free some space"),
        (errno.EDQUOT, "full; free some space"),
        (errno.EIO, "input/output error"),
    ],
)
def test_what_the_system_refuses_is_said_in_a_sentence(tmp_path, monkeypatch, number, words):
    def refuse(path, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UsageError, match=words) as caught:
        RunDir.create(tmp_path / "runs", "a", now=NOW)
    assert "--runs-dir" in str(caught.value)


def test_json_files_are_private_numbered_and_leave_nothing_beside_them(rundir, open_umask):
    rundir.write_job("name: mnist\n")
    rundir.write_plan({"tasks": []})
    rundir.write_summary({"state": "failed", "metrics": {"train": {"loss": float("nan")}}})
    assert rundir.job_file.read_text() == "name: mnist\n"
    assert json.loads(rundir.plan_file.read_text()) == {"format": 1, "tasks": []}
    assert json.loads(rundir.summary_file.read_text())["metrics"] == {"train": {"loss": "NaN"}}
    assert {path.name for path in rundir.path.iterdir()} == {"job.yaml", "plan.json", "summary.json", "logs"}
    assert all(mode(path) == 0o600 for path in rundir.path.iterdir() if path.is_file())


def test_a_write_that_fails_leaves_the_old_file_and_no_half_one(rundir, monkeypatch):
    rundir.write_summary({"state": "old"})

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DistrainError, match=r"cannot write .*summary\.json: .*full"):
        rundir.write_summary({"state": "new"})
    assert json.loads(rundir.summary_file.read_text())["state"] == "old"
    assert [path.name for path in rundir.path.iterdir() if path.name.startswith(".")] == []


def test_a_removed_run_directory_is_told_in_a_sentence(rundir):
    rundir.logs.rmdir()
    rundir.path.rmdir()
    with pytest.raises(DistrainError, match="cannot write"):
        rundir.write_summary({})


def test_numbers_that_are_none_become_strings_that_float_reads():
    text = json_text({"a": [float("nan"), float("inf"), -float("inf"), 1.5], "b": {"c": (0.1,)}})
    value = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert value == {"a": ["NaN", "Infinity", "-Infinity", 1.5], "b": {"c": [0.1]}}
    assert float(value["a"][2]) == -float("inf")


def test_the_log_of_a_task_has_a_name_that_a_shell_likes(rundir):
    assert rundir.log_file("worker:12") == rundir.path / "logs" / "worker-12.log"
    assert rundir.merged_log == rundir.path / "logs" / "merged.log"
