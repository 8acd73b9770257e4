"""Where the user's places are in a copy of the folder that travels."""

from __future__ import annotations

from pathlib import Path

import pytest

from distrain.errors import UsageError
from distrain.job.load import parse_job
from distrain.launcher.outset import Place, place_of

HOSTS = "cluster: {workers: 2, hosts: [one, two]}\nstrategy: MultiWorkerMirrored\n"


def test_places_keep_where_they_are_to_each_other() -> None:
    place = Place("/home/me/project/sub", ("/home/me/project/sub", "/home/me/project/jobs"), "/home/me/project")
    assert place.in_copy("/far/code") == Place(
        "/far/code/sub", ("/far/code/sub", "/far/code/jobs", "/far/code"), root=None
    )


def test_what_is_outside_of_the_folder_is_not_in_the_copy() -> None:
    place = Place("/home/me", ("/home/me", "/jobs"), "/home/me")
    assert place.in_copy("/far/code") == Place("/far/code", ("/far/code",))
    assert not place.holds("/home/me2")


def test_without_code_tasks_start_in_an_empty_folder() -> None:
    assert Place("/home/me", ("/home/me",)).in_copy("/far/code") == Place("/far/code", ())


def test_functions_beside_a_job_file_that_does_not_travel_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    job = parse_job(f"model: 'mine.models:make'\n{HOSTS}", "job.yaml")
    with pytest.raises(UsageError, match=r"does not hold .*/jobs, where the job file is; set code to a folder"):
        place_of(job, tmp_path / "jobs" / "job.yaml")
    both = parse_job(f"model: 'mine.models:make'\ncode: ..\n{HOSTS}", "job.yaml")
    assert place_of(both, tmp_path / "jobs" / "job.yaml").root == str(tmp_path.resolve())


def test_nothing_travels_for_built_ins_or_to_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of(parse_job(HOSTS, "job.yaml"), None).root is None
    local = parse_job("model: 'mine.models:make'\ncluster: {workers: 2}\nstrategy: MultiWorkerMirrored", "job.yaml")
    assert place_of(local, None).root is None
