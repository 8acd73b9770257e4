"""What a slow link between two hosts leaves of training, and what compression and ParameterAveraging make of that.

Two workers on two hosts of scripts/netlab, whose links carry 100 Mbit/s, train the network of the other benchmarks:
with MultiWorkerMirrored as it is, with its gradients in 16 bits, and with ParameterAveraging. Bytes are those that the
hosts' network interfaces count; like the examples, from the end of the first epoch to the end of the last.

How fast it learns is compared on this machine without hosts: whole epochs of MNIST until the validation accuracy is
what it is to be. Needs root, and what scripts/netlab needs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from lab import Lab, lab
from side_by_side import Comparison, Measured, Side, by_turns, report
from training_run import TrainingRun, data_folder, job, rate

BATCH_SIZE = 128
STEPS_PER_EPOCH = 64
EPOCHS = 4
MEGABITS_PER_S = 100.0
SYNC_EVERY = 8

ACCURACY = 0.97
MOST_EPOCHS = 12
EPOCHS_RATIO = 0.65
"""MultiWorkerMirrored may need so many times the epochs of ParameterAveraging: where it needs 2, that may need 3."""

PLAIN, COMPRESSED, AVERAGED = "float32", "bfloat16", f"averaged every {SYNC_EVERY}"
STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {"name": "MultiWorkerMirrored"},
    COMPRESSED: {"name": "MultiWorkerMirrored", "compression": "bfloat16"},
    AVERAGED: {"name": "ParameterAveraging", "sync_every": SYNC_EVERY},
}
COMPARISONS = (
    Comparison("bytes per step", "B", COMPRESSED, PLAIN, 1.9, more_is_better=False),
    Comparison("examples/s", "1/s", COMPRESSED, PLAIN, 1.0),
    Comparison("bytes per step", "B", AVERAGED, PLAIN, 6.0, more_is_better=False),
    Comparison("examples/s", "1/s", AVERAGED, PLAIN, 1.0),
)


def on_hosts(there: Lab, strategy: Mapping[str, Any]) -> Measured:
    settings = job("", workers=len(there.namespaces), batch_size=BATCH_SIZE, epochs=EPOCHS)
    settings["name"], settings["strategy"] = "benchmark-link", dict(strategy)
    settings["training"]["steps_per_epoch"] = STEPS_PER_EPOCH
    settings["cluster"]["hosts"] = [{"host": name, "python": sys.executable} for name in there.namespaces]
    chief = ""
    reached: list[tuple[float, int]] = []
    sent: list[int] = []
    with TrainingRun(settings, {"PATH": there.path}) as run:
        for event in run.events():
            if event["kind"] == "started":
                chief = event["task"]
            elif event["kind"] == "progress" and event["task"] == chief and event["step"] % STEPS_PER_EPOCH == 0:
                reached.append((event["time"], event["step"]))
                sent.append(there.sent_bytes())
    steps = reached[-1][1] - reached[0][1]
    return {"examples/s": rate(reached, BATCH_SIZE), "bytes per step": (sent[-1] - sent[0]) / steps}


def epochs_to_accuracy(strategy: Mapping[str, Any], seed: int) -> Measured:
    """Whole epochs until the validation accuracy is ACCURACY; one more than MOST_EPOCHS where it never is."""
    settings = job("", workers=2, batch_size=BATCH_SIZE, epochs=MOST_EPOCHS)
    settings["name"], settings["strategy"] = "benchmark-learning", dict(strategy)
    settings["training"] |= {"validation": 1, "seed": seed}
    with TrainingRun(settings) as run:
        for event in run.events():
            good = event["kind"] == "metrics" and event["split"] == "validation"
            if good and event["metrics"]["accuracy"] >= ACCURACY:
                return {"epochs": event["epoch"]}
    return {"epochs": MOST_EPOCHS + 1}


def compare_on_hosts(repeats: int) -> None:
    with lab("link", 2, shown=(str(data_folder()),)) as there:
        there.slow(MEGABITS_PER_S)
        sides = [Side(name, partial(on_hosts, there, strategy)) for name, strategy in STRATEGIES.items()]
        measured = by_turns(sides, repeats, warm_up=False)
    steps = {"batch_size": BATCH_SIZE, "steps_per_epoch": STEPS_PER_EPOCH, "epochs": EPOCHS}
    report("link", measured, COMPARISONS, {**steps, "megabits_per_s": MEGABITS_PER_S})


def compare_learning(repeats: int) -> None:
    seeds = {name: iter(range(1, repeats + 1)) for name in (PLAIN, AVERAGED)}
    sides = [Side(name, lambda name=name: epochs_to_accuracy(STRATEGIES[name], next(seeds[name]))) for name in seeds]
    measured = by_turns(sides, repeats, warm_up=False)
    comparison = Comparison("epochs", f"to {ACCURACY:g}", AVERAGED, PLAIN, EPOCHS_RATIO, more_is_better=False)
    report("learning", measured, (comparison,), {"batch_size": BATCH_SIZE, "accuracy": ACCURACY})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("link", "learning"))
    options = parser.parse_args()
    if options.only != "learning":
        compare_on_hosts(options.repeats)
    if options.only != "link":
        compare_learning(options.repeats)


if __name__ == "__main__":
    main()
