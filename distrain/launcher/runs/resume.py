"""A run that goes on: what it goes on from, whether a job still fits that, and where the new attempts begin.

Owns what may change between the attempts of a run and what may not. The attempts themselves are the loop's, as ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.errors import UsageError
from distrain.job.load import Given, load_job
from distrain.job.masking import MASK, masked_job
from distrain.job.spec import JobSpec
from distrain.launcher.runs import checkpoints
from distrain.launcher.runs.checkpoints import Checkpoint
from distrain.launcher.runs.history import last_session_start, read_summary
from distrain.launcher.runs.rundir import RunDir


@dataclass(frozen=True)
class Resumption:
    """The run `origin` is to go on; `anew`: as a run of its own, in a new directory."""

    origin: RunDir
    anew: bool = False


@dataclass(frozen=True)
class Beginning:
    """What the next attempt of a run begins with. `damaged`: a sentence for each checkpoint that is passed over.
    `notes`: what else there is to say, as level and sentence.
    """

    checkpoint: Checkpoint | None
    damaged: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]

    def told(self, resume: Resumption) -> Mapping[str, Any]:
        """`resumed_from` in the summary. `step` 0: it has no checkpoint."""
        return {"run": resume.origin.name, "step": self.checkpoint.step if self.checkpoint else 0}


def recorded(
    origin: RunDir, sets: Sequence[str] = (), name: str | None = None, given: Given = ()
) -> tuple[JobSpec, Path | None]:
    """The job of a run, with options laid over it, and the file that it came from, beside which its functions are
    looked for.

    Raises:
        JobError: an option is wrong.
        UsageError: the job holds secrets, which were not recorded, or is of another folder than the current one.
    """
    job = load_job(origin.job_file, sets, name, given)
    if (where := _mask_in(job.to_json())) is not None:
        raise UsageError(
            f"{where} of {origin.name} is a secret, which is not kept in its job.yaml; "
            f"name the job again, as in `distrain run JOB --resume {origin.handle}`, or give the secret with --set"
        )
    start = last_session_start(origin)
    cwd, job_file = (start.data.get("cwd"), start.data.get("job_file")) if start else (None, None)
    if cwd is not None and not _is_here(cwd):
        raise UsageError(
            f"{origin.name} was started in {cwd}, from where its paths are seen; change into that folder, "
            f"or name its job, as in `distrain run JOB --resume {origin.handle}`"
        )
    return job, Path(job_file) if job_file is not None else None


def nothing_left(origin: RunDir, job: JobSpec) -> Mapping[str, Any] | None:
    """The summary of a run that has succeeded and that `job` does not ask more of. None: there is something to do."""
    summary = read_summary(origin)
    if summary is None or summary.get("state") != "succeeded":
        return None
    if job.program is None and job.training.epochs > load_job(origin.job_file).training.epochs:
        return None
    return summary


def begin(resume: Resumption, job: JobSpec) -> Beginning:
    """What `job` goes on from.

    Raises:
        UsageError: it cannot go on from there; the sentence says why.
    """
    origin, old = resume.origin, load_job(resume.origin.job_file)
    checkpoint, damaged = checkpoints.choose(origin, old) if old.program is None else (None, ())
    refusals, warnings = misfits(masked_job(old), masked_job(job), checkpoint)
    if refusals:
        raise UsageError(
            f"{origin.name} cannot go on with this job: {'; '.join(refusals)}; change that back, or begin a new run "
            "by leaving --resume out"
        )
    if checkpoint is not None:
        how = f"it goes on after step {checkpoint.step:,}, from {checkpoint.path}"
    elif job.program is not None:
        how = "the program starts again; what it does about what it wrote before is its own business"
    else:
        how = "it starts from the beginning: there is no checkpoint of it"
    notes = [("warning", warning) for warning in warnings]
    return Beginning(checkpoint, damaged, (*notes, ("info", f"{origin.name} is resumed: {how}")))


def hand_over(beginning: Beginning, resume: Resumption, rundir: RunDir, job: JobSpec) -> tuple[tuple[str, str], ...]:
    """Put the checkpoint to where the attempts of `rundir` look for it, and take away what the run came to before.
    Returns what there is to say, as level and sentence.

    Raises:
        DistrainError: something cannot be written.
    """
    folder, notes = checkpoints.folder_of(rundir, job), beginning.notes
    if beginning.checkpoint is not None and beginning.checkpoint.path.parent != folder:
        checkpoints.copy(beginning.checkpoint, folder)
        # Where nothing is copied, the attempt finds the damaged ones itself.
        notes = (*(("warning", sentence) for sentence in beginning.damaged), *notes)
    if not resume.anew:
        with suppress(FileNotFoundError):
            rundir.summary_file.unlink()
    return notes


def misfits(
    old: Mapping[str, Any], new: Mapping[str, Any], checkpoint: Checkpoint | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Why the job `new` cannot go on from a checkpoint of `old`, and what to know if it does. Both are
    `JobSpec.to_json()`, secrets masked.
    """
    if ("program" in old) != ("program" in new):
        kinds = ("a program", "a job that distrain trains")
        was, wanted = kinds if "program" in old else kinds[::-1]
        return (f"it was {was}, and this is {wanted}",), ()
    if checkpoint is None or "program" in old:
        return (), ()
    refusals, warnings = [], []
    for key, why in _NEVER.items():
        if _at(old, key) != _at(new, key):
            refusals.append(f"{key} differs, and {why}")
    steps_per_epoch = _at(new, "training.steps_per_epoch")
    if steps_per_epoch != _at(old, "training.steps_per_epoch") and steps_per_epoch != checkpoint.steps_per_epoch:
        refusals.append(f"training.steps_per_epoch differs, and {_COUNTED}")
    changed = [key for key in _BETWEEN_EPOCHS if _at(old, key) != _at(new, key)]
    for key in changed:
        if checkpoint.in_mid_epoch:
            refusals.append(f"{key} differs, and the checkpoint is from the middle of an epoch, {_BETWEEN_EPOCHS[key]}")
        else:
            warnings.append(f"{key} is another from epoch {checkpoint.epoch + 1} on")
    for key in _NOT_THE_SAME:
        if _at(old, key) != _at(new, key):
            said = f"{key} was {_at(old, key)} and is {_at(new, key)}"
            warnings.append(f"{said}: the weights will not be, to the last bit, those of a run that was not resumed")
    return tuple(refusals), tuple(warnings)


_COUNTED = "steps are counted in batches of one size and epochs in so many of them"
_NEVER: Mapping[str, str] = {
    "model": "the checkpoint holds the weights of the model that it was",
    "training.optimizer": "the checkpoint holds the state of the optimizer that it was, its learning rate included",
    "training.scale_learning_rate": "the checkpoint holds the learning rate that follows from it",
    "training.warmup_steps": "the checkpoint holds the learning rate that follows from it",
    "dataset.batch_size": _COUNTED,
    "training.precision": "the checkpoint holds the variables of the precision that it was",
}
"""What no checkpoint of a run fits when it is changed."""

_ORDER = "the rest of which would be other examples than those that are due"
_BETWEEN_EPOCHS: Mapping[str, str] = {
    "dataset.name": _ORDER,
    "dataset.path": _ORDER,
    "dataset.args": _ORDER,
    "dataset.shard": _ORDER,
    "dataset.deterministic": _ORDER,
    "training.seed": _ORDER,
    "training.shuffle": _ORDER,
    "training.class_weight": "whose metrics so far were of other weights",
    "training.loss": "whose metrics so far were of another loss",
    "training.metrics": "whose metrics so far were others",
}
"""What may change when an epoch is over, and why not in the middle of one."""

_NOT_THE_SAME = (
    "strategy.name",
    "strategy.compression",
    "strategy.accumulate",
    "strategy.sync_every",
    "strategy.outer_momentum",
    "strategy.mesh",
    "cluster.workers",
    "cluster.devices_per_worker",
    "training.jit_compile",
)


def _at(job: Mapping[str, Any], path: str) -> Any:
    value: Any = job
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _mask_in(value: Any, path: str = "") -> str | None:
    """The path of a value that was masked when it was recorded."""
    if isinstance(value, str):
        return path if MASK in value else None
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    found = (_mask_in(item, f"{path}.{key}" if path else str(key)) for key, item in pairs)
    return next((each for each in found if each is not None), None)


def _is_here(folder: str) -> bool:
    try:
        return Path(folder).samefile(".")
    except OSError:
        return False
