# ruff: noqa: E501  (a sentence stays on one line)
"""Which runs a sweep is made of, and what is said about those that cannot be."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from distrain.errors import UsageError
from distrain.job.load import parse_job
from distrain.job.spec import JobSpec
from distrain.launcher.bench.plan import Varied, combinations, contenders, measured, varied, warm_up_steps

SOURCE = "{strategy: MultiWorkerMirrored, dataset: {batch_size: 12}, cluster: {workers: 2}}"


def load(source: str = SOURCE, sets: Sequence[str] = ()):  # type: ignore[no-untyped-def]
    return lambda more: parse_job(source, "job.yaml", (*sets, *more))


def complaint(workers: str | None, *options: str, source: str = SOURCE) -> list[str]:
    with pytest.raises(UsageError) as error:
        contenders(combinations(varied(workers, options)), load(source), 100)
    return str(error.value).splitlines()


def test_every_value_meets_every_other() -> None:
    chosen = combinations(varied("1,2", ["dataset.batch_size=12,24", "training.seed=7"]))
    assert [each.sets for each in chosen] == [
        ("cluster.workers=1", "dataset.batch_size=12", "training.seed=7"),
        ("cluster.workers=1", "dataset.batch_size=24", "training.seed=7"),
        ("cluster.workers=2", "dataset.batch_size=12", "training.seed=7"),
        ("cluster.workers=2", "dataset.batch_size=24", "training.seed=7"),
    ]
    assert [each.label for each in chosen[::3]] == [
        "1 worker, batch_size 12, seed 7",
        "2 workers, batch_size 24, seed 7",
    ]


def test_without_anything_varied_the_job_itself_is_measured() -> None:
    (only,) = contenders(combinations(varied(None, [])), load(), 100)
    assert (only.combination.label, only.workers) == ("the job as it is", 2)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("a=1,2", ("1", "2")),
        ("a= x , y", ("x", "y")),
        ("a=[1,2],[3]", ("[1,2]", "[3]")),
        ("a={name: sgd, learning_rate: 0.1},adam", ("{name: sgd, learning_rate: 0.1}", "adam")),
        ("a=b=c,d", ("b=c", "d")),
    ],
)
def test_commas_inside_brackets_do_not_part_values(option: str, values: tuple[str, ...]) -> None:
    assert varied(None, [option]) == (Varied("a", values),)


@pytest.mark.parametrize(
    ("workers", "options", "words"),
    [
        ("1,two", (), "--workers '1,two' are no numbers of workers"),
        ("0", (), "are no numbers of workers"),
        ("", (), "are no numbers of workers"),
        (None, ("strategy.compression",), "'strategy.compression' does not say what to vary"),
        (None, ("=1,2",), "does not say what to vary"),
        (None, ("training.seed=1,,2",), "does not say what to vary"),
        (None, ("training.seed=1", "training.seed=2"), "training.seed is varied twice"),
        ("1,2", ("cluster.workers=3",), "cluster.workers is varied twice"),
        (None, ("training.seed=1,2,1",), "training.seed is to be '1' twice"),
        (None, ("training.epochs=1,2",), "--vary training.epochs would change nothing"),
        (None, ("checkpoint.keep=1,2",), "--vary checkpoint.keep would change nothing"),
    ],
)
def test_options_of_another_form_are_told(workers: str | None, options: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        varied(workers, options)


def test_all_complaints_come_at_once_each_with_whom_it_concerns() -> None:
    told = {line.partition(": ")[0]: line for line in complaint("2,5", "training.seed=1,x", "no.such=1")}
    assert set(told) == {"--vary no.such", "--vary training.seed", "job.yaml:1:55"}
    assert told["--vary training.seed"].endswith("(2 workers, seed x, such 1; 5 workers, seed x, such 1)")
    assert told["job.yaml:1:55"].endswith("(5 workers, seed 1, such 1; 5 workers, seed x, such 1)")
    assert told["--vary no.such"].endswith("(all combinations)")


def test_a_complaint_names_the_option_that_was_typed() -> None:
    (line,) = complaint("1,2", source="{strategy: OneDevice}")
    assert line.startswith("--workers: ")
    assert line.endswith("(2 workers)")


def test_a_program_cannot_be_measured() -> None:
    assert "only distrain's own training" in complaint("1", source="{program: [train.py]}")[0]


def test_a_measured_job_is_one_short_run_that_keeps_nothing() -> None:
    source = "{strategy: MultiWorkerMirrored, training: {epochs: 9, validation: 2}, dataset: {batch_size: 12}, cluster: {workers: 2}, checkpoint: {every_steps: 5}, elastic: {min_workers: 1}, watchdog: {nan: rollback}}"
    job = measured(parse_job(source, "job.yaml"), 100)
    assert (job.training.epochs, job.training.steps_per_epoch, job.training.validation) == (1, 125, 0)
    assert (job.checkpoint, job.restart, job.elastic, job.watchdog.nan) == (None, None, None, "stop")
    assert job.dataset == parse_job(source, "job.yaml").dataset
    assert isinstance(job, JobSpec)


def test_a_warm_up_is_long_enough() -> None:
    assert [warm_up_steps(steps) for steps in (10, 40, 500)] == [10, 10, 125]
