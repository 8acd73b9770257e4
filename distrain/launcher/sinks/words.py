"""What distrain says about a run, in words: sentences as things happen, and the account at the end.

Pure. Whoever shows them adds time, colour and place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from distrain.launcher.events import Event
from distrain.launcher.runs.rundir import log_name
from distrain.launcher.sinks.fold import is_notice
from distrain.launcher.sinks.view import Recovery, View

PROGRESS_EVERY_S = 10.0
_TAIL_LINES = 10


class Narrator:
    """Picks what is worth a line. `progress_every_s` None: a panel shows the progress, so only epochs are told."""

    def __init__(self, progress_every_s: float | None = PROGRESS_EVERY_S) -> None:
        self._progress_every_s = progress_every_s
        self._told_at = 0.0
        self._told_epoch = (0, 0)
        self._told_ready = 0
        self._told_stacks = 0
        self._recovery: Recovery | None = None
        self._chief: str | None = None

    def tell(self, event: Event, view: View) -> tuple[str, ...]:
        """The lines that `event` is worth; `view` is the run after it."""
        data = event.data
        match event.kind:
            case "run_started":
                return (_opening(view), f"everything is recorded in {data['run_dir']}")
            case "host_opened":
                return (
                    f"{event.host}: {data['cores']} cores, {size(data['memory_bytes'])} of memory, "
                    f"Python {data['python']}",
                )
            case "attempt_started" if event.attempt >= 2:
                self._recovery = view.recovery
                return (f"attempt {event.attempt}: every task starts again, {_from(data.get('from_step', 0))}",)
            case "restarting":
                return (_restarting(data, view),)
            case "respawning":
                subject = failure_sentence({**data, "task": event.task, "host": event.host})
                return (f"{subject}; it is started again by itself, and the others go on",)
            case "straggler":
                where = f" on {event.host}" if event.host not in (None, "local") else ""
                times = f"{data['ratio']:.1f} times"
                return (f"warning: {event.task}{where} takes {times} as long for a step as the others",)
            case "stacks" if data.get("path") and self._told_stacks != event.attempt:
                self._told_stacks = event.attempt
                return (f"where every task was is in {data['path'].rpartition('/')[0]}/",)
            case "cluster_changed":
                return (_changed(data, view),)
            case "ready":
                return self._ready(event, view)
            case "started":
                self._chief = event.task
                self._told_at = event.time
                return (_training(data),)
            case "progress":
                return self._progress(event, view)
            case "metrics" if data["split"] == "validation":
                epoch = data["epoch"]
                when = f"step {data['step']:,}" if epoch is None else epoch_of(epoch, view)
                return (f"{when} · validation {metrics(data['metrics'])}",)
            case "checkpoint":
                return (f"checkpoint of step {data['step']:,} written in {data['seconds']:.1f} s: {data['path']}",)
            case "model":
                return (f"model written: {data['path']}",)
            case "download":
                return self._download(event)
            case "note" if data.get("level") == "logged":
                return ()  # its task has printed it
            case "note" | "agent_note":
                speaker = event.task or event.host
                said = f"{speaker}: {data['message']}" if speaker else str(data["message"])
                level = data.get("level")
                return (f"{level}: {said}" if level in ("warning", "error") else said,)
            case "file_lost":
                return (f"error: {data['message']}",)
            case "host_failed":
                return (str(data["message"]),)
            case "task_failed":
                return (failure_sentence(data),)
            case "harm":
                return (f"chaos: {data['injury']} {', '.join(data['targets'])}",)
            case "harmed" if data["error"] is not None:
                return (f"warning: {event.host} was not harmed ({data['injury']}): {data['error']}",)
            case "stopping":
                return (f"stopping: {data['reason']}",)
            case _:
                return ()

    def _ready(self, event: Event, view: View) -> tuple[str, ...]:
        if self._told_ready == view.attempt or not all(task.ready for task in view.tasks.values()):
            return ()
        again, self._told_ready = bool(self._told_ready), view.attempt
        count = len(view.tasks)
        who = "the task is ready" if count == 1 else f"all {count} tasks are ready"
        if again:
            return (f"attempt {view.attempt}: {who}",)
        parts = [f"{who} after {event.time - view.began:.1f} s"]
        versions = event.data.get("versions", {})
        parts += [f"{label} {versions[key]}" for key, label in _LIBRARIES.items() if versions.get(key)]
        return (" · ".join(parts),)

    def _progress(self, event: Event, view: View) -> tuple[str, ...]:
        recovery, self._recovery = self._recovery, view.recovery
        if recovery is not None and view.recovery is None:
            after_s = event.time - recovery.failed_at
            told = f"attempt {event.attempt} has caught up: step {recovery.furthest:,} again {after_s:.1f} s after"
            return (f"{told} {_what(recovery.cause, recovery.who)}", *self._figures(event, view))
        return self._figures(event, view)

    def _figures(self, event: Event, view: View) -> tuple[str, ...]:
        if self._chief not in (None, event.task):
            return ()  # the figures of the line are the chief's, whose progress may be behind this task's
        step, epoch = event.data["step"], event.data["epoch"]
        ends_epoch = view.steps_per_epoch is not None and epoch is not None and step == epoch * view.steps_per_epoch
        if ends_epoch and self._told_epoch < (event.attempt, epoch):
            self._told_epoch = (event.attempt, epoch)
        elif self._progress_every_s is None or not event.time - self._told_at >= self._progress_every_s:
            return ()
        self._told_at = event.time
        # Without lines in between, a live view shows the time that is left.
        return (progress_line(view, event.time if self._progress_every_s is not None else None),)

    def _download(self, event: Event) -> tuple[str, ...]:
        done, total = event.data["done_bytes"], event.data.get("total_bytes")
        finished = total is not None and done >= total
        if not finished and event.time - self._told_at < PROGRESS_EVERY_S:
            return ()
        self._told_at = event.time
        of = f" of {size(total)}" if total else ""
        return (f"downloading {event.data['name']}: {size(done)}{of}",)


_LIBRARIES = {"tensorflow": "TensorFlow", "keras": "Keras"}


_CAUSES = {"crash": "the crash of", "hang": "the hang of", "host_lost": "the loss of", "nan": "the NaN of"}


def _what(cause: str, who: str) -> str:
    """`the crash of worker:1`."""
    return f"{_CAUSES[cause]} {who}" if cause in _CAUSES else f"{who} was asked to leave"


def _from(step: int) -> str:
    return f"from step {step:,}" if step else "from the beginning"


def _restarting(data: Mapping[str, Any], view: View) -> str:
    """When and from where a run goes on."""
    assert view.recovery is not None
    when = f" in {data['wait_s']:.1f} s" if data["wait_s"] >= 0.05 else ""
    when += f" when {_listed(view.recovery.missing)} can be used again" if view.recovery.missing else ""
    count = f" (restart {data['restarts']} of at most {data['max']})" if data["counted"] else " (not counted)"
    what = _what(data["cause"], view.recovery.who)
    return f"restarting after {what}: attempt {data['next_attempt']} goes on {_from(data['from_step'])}{when}{count}"


def _changed(data: Mapping[str, Any], view: View) -> str:
    count, hosts = len(view.tasks), {task.host for task in view.tasks.values()}
    where = f"{count} task{'s' * (count != 1)} on {len(hosts)} host{'s' * (len(hosts) != 1)}"
    return f"going on without {_listed(data['gone'])}: {where}" if data["gone"] else f"every host is back: {where}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def progress_line(view: View, now: float | None) -> str:
    """How far the run is; `now` None: without the time that is left."""
    parts = [epoch_of(view.epoch, view)] if view.epoch else []
    parts.append(f"step {view.step:,}/{view.steps:,}" if view.steps else f"step {view.step:,}")
    if view.train:
        parts.append(metrics(view.train))
    if view.examples_per_s is not None:
        parts.append(f"{view.examples_per_s:,.0f} examples/s")
    left_s = None if now is None else view.left_s(now)
    if left_s is not None and view.step < (view.steps or 0):
        parts.append(f"{duration(left_s)} left")
    return " · ".join(parts)


def epoch_of(epoch: int, view: View) -> str:
    """`epoch 2/5`, or `epoch 2` where nobody has said how many there will be."""
    return f"epoch {epoch}/{view.epochs}" if view.epochs else f"epoch {epoch}"


def failure_sentence(failure: Mapping[str, Any]) -> str:
    """What went wrong first; `failure` as in `summary.json`."""
    nobody = "all tasks" if failure.get("kind") == "hang" else "the start"
    who = str(failure.get("task") or failure.get("host") or nobody)
    where = f" on {failure['host']}" if failure.get("task") and failure.get("host") not in (None, "local") else ""
    message = str(failure.get("message") or "failed without a word")
    # Messages are sentences of their own or what follows the name: a colon fits both.
    place = f" ({failure['where']})" if failure.get("where") else ""
    # What went wrong with a host is said by whoever knows it, host and all.
    subject = "" if message.startswith(f"{who}: ") else f"{who}{where}: "
    return f"{subject}{message}{place}"


def ending(view: View, place: str) -> tuple[str, ...]:
    """The account of a run that has ended. `place`: its directory, as the user would type it.

    The first line is `<state>  <run>`.
    """
    assert view.summary is not None
    summary = view.summary
    lines = [f"{summary['state']}  {view.run}", ""]
    first = summary.get("first_failure")
    if first:
        lines += [*_failure_account(first, view), ""]
    if recovered := _recovered(summary):
        lines += [*recovered, ""]
    facts = []
    if view.speaks:
        facts.append(f"epochs {summary['epochs']}/{view.epochs}" if view.epochs else f"epochs {summary['epochs']}")
    elif view.epoch:
        facts.append(epoch_of(view.epoch, view))
    if view.speaks or summary["steps"]:
        facts.append(f"steps {summary['steps']:,}/{view.steps:,}" if view.steps else f"steps {summary['steps']:,}")
    facts.append(f"time {duration(summary['timings']['total_s'])}")
    if summary.get("examples_per_s"):
        facts.append(f"{summary['examples_per_s']:,.0f} examples/s")
    if summary["attempts"] > 1:
        facts.append(f"attempts {summary['attempts']}")
    lines += ["  " + " · ".join(facts), *_metrics_table(summary["metrics"]), ""]
    if first and first.get("task"):
        lines.append(f"  log      {place}/{log_name(first['task'])}")
    if view.model:
        lines.append(f"  model    {place}/{view.model}")
    if view.train or view.validation:
        lines.append(f"  metrics  {place}/metrics.jsonl")
    lines.append(f"  logs     {place}/logs/")
    return tuple(lines)


_MOST_RECOVERED = 5


def _recovered(summary: Mapping[str, Any]) -> list[str]:
    """The failures that the run has got over, a line each."""
    recoveries = summary["timings"]["recoveries"]
    lines = []
    for failure, recovery in zip(summary.get("failures", ()), recoveries, strict=False):
        facts = [] if recovery["resumed_s"] is None else [f"trained again after {recovery['resumed_s']:.1f} s"]
        if recovery["steps_lost"]:
            facts.append(f"{recovery['steps_lost']:,} step{'s' * (recovery['steps_lost'] != 1)} done again")
        lines.append(" · ".join([f"  attempt {failure['attempt']}: {failure_sentence(failure)}", *facts]))
    if len(lines) > _MOST_RECOVERED:
        lines = [f"  {len(lines) - _MOST_RECOVERED} failures before", *lines[-_MOST_RECOVERED:]]
    return lines


def _failure_account(first: Mapping[str, Any], view: View) -> list[str]:
    lines = [f"  {failure_sentence(first)}"]
    # A mistake in the job is told whole by its sentence.
    tail = [] if first.get("kind") == "job" else first.get("log_tail") or []
    tail = [line for line in tail if not is_notice(line.encode(errors="replace"))]
    if tail:
        lines += ["", "  its last lines:", *(f"  | {line}" for line in tail[-_TAIL_LINES:])]
    others = [name for name in view.consequences if name != first.get("task")]
    if others:
        named = ", ".join(others[:6]) + (f" and {len(others) - 6} more" if len(others) > 6 else "")
        lines += ["", f"  {len(others)} more failed as a consequence: {named}"]
    return lines


def _metrics_table(splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = {split: splits[split] for split in ("train", "validation") if splits.get(split)}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    if not names:
        return []
    widths = {name: max(len(name), *(len(number(row[name])) for row in rows.values() if name in row)) for name in names}
    lines = ["", "  " + " " * 10 + "".join(f"  {name:>{widths[name]}}" for name in names)]
    for split, row in rows.items():
        cells = (number(row[name]) if name in row else "" for name in names)
        padded = "".join(f"  {cell:>{widths[name]}}" for cell, name in zip(cells, names, strict=True))
        lines.append(f"  {split:<10}{padded}".rstrip())
    return lines


def _opening(view: View) -> str:
    count = len(view.tasks)
    hosts = {task.host for task in view.tasks.values()}
    where = f" on {len(hosts)} hosts" if len(hosts) > 1 else ""
    epochs = f", {view.epochs} epoch{'s' * (view.epochs != 1)}" if view.epochs else ""
    return f"{view.run}: {view.strategy}, {count} task{'s' * (count != 1)}{where}{epochs}"


def _training(data: Mapping[str, Any]) -> str:
    counts = {"train on": data.get("train_examples"), "validate on": data.get("validation_examples")}
    known = "".join(f" · {count:,} to {use}" for use, count in counts.items() if count)  # a stream may not know
    return (
        f"training: {data['epochs']} epoch{'s' * (data['epochs'] != 1)} of {data['steps_per_epoch']:,} steps"
        f" · {data['batch_size']:,} examples a step{known}"
    )


def metrics(values: Mapping[str, Any]) -> str:
    return " · ".join(f"{name} {number(value)}" for name, value in values.items())


def number(value: Any) -> str:
    """Four digits that matter, in as few characters as they need. None is a number that is none; text stays text."""
    if value is None:
        return "nan"
    if not isinstance(value, int | float) or not math.isfinite(value):
        return str(value)
    magnitude = abs(value)
    return f"{value:.4f}" if magnitude == 0 or 1e-3 <= magnitude < 1000 else f"{value:.4g}"


def size(count: float) -> str:
    """Bytes in binary units: `812 MiB`, `7.8 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.1f} {unit}" if unit == "GiB" and count < 100 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """`0:12`, `1:02:03`."""
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"
