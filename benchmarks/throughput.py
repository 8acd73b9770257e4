"""Examples/s of two workers: distrain against tf-keras `fit`, under MultiWorkerMirrored and ParameterServer (one ps).

The same network, data, optimizer and batch on both sides, in memory, without validation, checkpoints or a progress
bar. What counts is the time from the end of the first epoch to the end of the last. Keras 3's own `fit` cannot be the
other side: it raises under both strategies. tf-keras gets the settings that are the fastest for it (`--sweep` tries
them); distrain gets its defaults.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from processes import Baseline
from rich.table import Table
from side_by_side import Comparison, Measured, Side, by_turns, print_table, report
from training_run import TrainingRun, data_folder, job, rate

BATCH_SIZE = 128
EPOCHS = 9


@dataclass(frozen=True)
class Setting:
    """How tf-keras is run. `threads` per compute task, 0: TensorFlow's own choice."""

    steps_per_execution: int
    threads: int


@dataclass(frozen=True)
class Contest:
    strategy: str
    roles: Mapping[str, int]
    best: Setting
    target: float


CONTESTS = (
    Contest("MultiWorkerMirrored", {"worker": 2}, Setting(31, 1), target=1.7),
    Contest("ParameterServer", {"chief": 1, "worker": 2, "ps": 1}, Setting(10, 0), target=2.0),
)
TRIED = tuple(itertools.starmap(Setting, itertools.product((1, 5, 10, 31, 62), (0, 1))))


def distrain(contest: Contest) -> Measured:
    settings = job(
        contest.strategy,
        workers=contest.roles["worker"],
        ps=contest.roles.get("ps", 0),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
    )
    with TrainingRun(settings) as run:
        return run.steady_examples_per_s(BATCH_SIZE)


def tf_keras(contest: Contest, setting: Setting) -> Measured:
    options = {
        "--batch-size": BATCH_SIZE,
        "--epochs": EPOCHS,
        "--steps-per-execution": setting.steps_per_execution,
        "--threads": setting.threads,
    }
    arguments = [str(word) for option in options.items() for word in option]
    with Baseline("tfkeras_fit.py", contest.roles, contest.strategy, str(data_folder()), *arguments) as cluster:
        lines = [line for _, line in cluster.says()]
    reached = [(line["time"], line["step"]) for line in lines if "step" in line]
    return {"examples/s": rate(reached, BATCH_SIZE), "parameters": lines[0]["parameters"]}


def compare(repeats: int) -> None:
    for contest in CONTESTS:
        sides = (
            Side("distrain", partial(distrain, contest)),
            Side("tf-keras fit", partial(tf_keras, contest, contest.best)),
        )
        measured = by_turns(sides, repeats, warm_up=False)
        sizes = {turn["parameters"] for turns in measured.values() for turn in turns}
        if len(sizes) != 1:
            raise SystemExit(f"the two sides train different networks: {sizes} parameters")
        report(
            f"throughput-{contest.strategy}",
            measured,
            (Comparison("examples/s", "1/s", "distrain", "tf-keras fit", contest.target),),
            {"batch_size": BATCH_SIZE, "epochs": EPOCHS, "roles": dict(contest.roles), "tf-keras": vars(contest.best)},
        )


def sweep() -> None:
    for contest in CONTESTS:
        table = Table("steps_per_execution", "threads", "examples/s", title=f"tf-keras fit, {contest.strategy}")
        for setting in TRIED:
            try:
                speed = f"{tf_keras(contest, setting)['examples/s']:,.0f}"
            except RuntimeError:  # one thread under ParameterServer hangs now and then, and meets the deadline
                speed = "did not end"
            table.add_row(str(setting.steps_per_execution), str(setting.threads or "default"), speed)
        print_table(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sweep", action="store_true", help="try tf-keras's settings in place of comparing")
    options = parser.parse_args()
    if options.sweep:
        sweep()
    else:
        compare(options.repeats)


if __name__ == "__main__":
    main()
