"""What is to be compared: the combinations of a sweep, the job that each one is, and what is wrong with them. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from distrain.errors import JobError, UsageError
from distrain.job.spec import JobSpec

WARM_UP_SHARE = 4
LEAST_WARM_UP_STEPS = 10

_SHORTENED = (
    "training.epochs",
    "training.steps_per_epoch",
    "training.validation",
    "cluster.evaluators",
    "checkpoint",
    "restart",
    "elastic",
    "watchdog.nan",
)
"""What `measured` sets in every job."""

_OPENING, _CLOSING = "[{(", "]})"
_WORKERS = "cluster.workers"


@dataclass(frozen=True)
class Varied:
    """One key of the job, and the values that it is to have, as they would follow `--set KEY=`."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Combination:
    """One value for each varied key."""

    settings: Mapping[str, str]

    @property
    def sets(self) -> tuple[str, ...]:
        """As options of `--set`."""
        return tuple(f"{key}={value}" for key, value in self.settings.items())

    @property
    def label(self) -> str:
        """For people: `2 workers, compression bfloat16`."""
        parts = [
            f"{value} {'worker' if value == '1' else 'workers'}" if key == _WORKERS else f"{short(key)} {value}"
            for key, value in self.settings.items()
        ]
        return ", ".join(parts) or "the job as it is"

    @property
    def others(self) -> tuple[tuple[str, str], ...]:
        """All but the number of workers."""
        return tuple((key, value) for key, value in self.settings.items() if key != _WORKERS)


@dataclass(frozen=True)
class Contender:
    """A combination, and its job."""

    combination: Combination
    job: JobSpec

    @property
    def workers(self) -> int:
        return self.job.cluster.workers


def short(key: str) -> str:
    """The last word of a key, which says enough in a table."""
    return key.rpartition(".")[2]


def varied(workers: str | None, options: Sequence[str]) -> tuple[Varied, ...]:
    """What `--workers 1,2` and the options `--vary KEY=VALUE,VALUE` ask for.

    Raises:
        UsageError: one of them is not of that form, or a key or a value is given twice.
    """
    found: list[Varied] = []
    if workers is not None:
        values = tuple(value.strip() for value in workers.split(","))
        if not all(re.fullmatch(r"[1-9][0-9]{0,5}", value) for value in values):
            raise UsageError(f"--workers {workers!r} are no numbers of workers; write for example --workers 1,2,4")
        found.append(Varied(_WORKERS, values))
    for option in options:
        key, equals, text = option.partition("=")
        values = _values(text)
        if not equals or not key.strip() or not all(values):
            raise UsageError(
                f"--vary {option!r} does not say what to vary and over which values; "
                "write for example --vary strategy.compression=none,bfloat16"
            )
        if any(f"{key.strip()}.".startswith(f"{shortened}.") for shortened in _SHORTENED):
            raise UsageError(
                f"--vary {key.strip()} would change nothing: each run is one epoch of --steps steps, without "
                "validation, evaluator, checkpoints and restarts; vary something else"
            )
        found.append(Varied(key.strip(), values))
    for number, each in enumerate(found):
        if each.key in (earlier.key for earlier in found[:number]):
            raise UsageError(f"{each.key} is varied twice; give all its values at once")
        if doubles := [value for value in each.values if each.values.count(value) > 1]:
            raise UsageError(f"{each.key} is to be {doubles[0]!r} twice; give each value once")
    return tuple(found)


def _values(text: str) -> tuple[str, ...]:
    """The values in `a,[b,c],d`: commas inside brackets do not part them."""
    depth, values = 0, [""]
    for letter in text:
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and depth <= 0:
            values.append("")
        else:
            values[-1] += letter
    return tuple(value.strip() for value in values)


def combinations(of: Sequence[Varied]) -> tuple[Combination, ...]:
    """Every one of them, the last key's values changing fastest."""
    keys = [each.key for each in of]
    chosen = itertools.product(*(each.values for each in of))
    return tuple(Combination(dict(zip(keys, values, strict=True))) for values in chosen)


def contenders(
    chosen: Sequence[Combination], load: Callable[[Sequence[str]], JobSpec], steps: int
) -> tuple[Contender, ...]:
    """The job of each; `load` gives that of some `--set` options.

    Raises:
        UsageError: some are no jobs, or of a program. All complaints are told, each once, with whom it concerns.
    """
    found: list[Contender] = []
    complaints: dict[str, list[Combination]] = {}
    for combination in chosen:
        try:
            job = load(combination.sets)
        except JobError as error:
            for complaint in error.complaints:
                named = replace(complaint, file=_as_typed(complaint.file, combination))
                complaints.setdefault(str(named), []).append(combination)
            continue
        if job.program is not None:
            raise UsageError(
                "a program trains in its own way, and only distrain's own training can be measured: name a job file"
                " without program"
            )
        found.append(Contender(combination, measured(job, steps)))
    if complaints:
        raise UsageError("\n".join(_with_whom(text, of, len(chosen)) for text, of in complaints.items()))
    return tuple(found)


def _as_typed(place: str, combination: Combination) -> str:
    """What the user has typed, where a complaint is about an option that we have made of it."""
    for key in combination.settings:
        if place == f"--set {key}":
            return "--workers" if key == _WORKERS else f"--vary {key}"
    return place


def _with_whom(complaint: str, of: Sequence[Combination], count: int) -> str:
    if count == 1:
        return complaint
    whom = "all combinations" if len(of) == count else "; ".join(combination.label for combination in of)
    return f"{complaint} ({whom})"


def warm_up_steps(steps: int) -> int:
    """How many steps come before `steps` that count: tracing, and finding the pace, are among them."""
    return max(LEAST_WARM_UP_STEPS, steps // WARM_UP_SHARE)


def measured(job: JobSpec, steps: int) -> JobSpec:
    """`job` as one short run: a warm-up and then `steps` steps, nothing written, and no second try."""
    training = replace(job.training, epochs=1, steps_per_epoch=warm_up_steps(steps) + steps, validation=0)
    return replace(
        job,
        training=training,
        cluster=replace(job.cluster, evaluators=0),
        checkpoint=None,
        restart=None,
        elastic=None,
        watchdog=replace(job.watchdog, nan="stop"),
    )
