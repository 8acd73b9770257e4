"""Trains under random kills, and holds the outcome against that of training that nobody disturbed.

Each strategy trains once undisturbed, and then again and again with `distrain chaos` killing its tasks, until the kills
are done. Every such run must end by itself, with the right weights (to the last bit, where the strategy promises that),
with every step done, no process left, and not a byte missing from what its tasks printed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from process_table import MARK, marked, wait_until  # noqa: E402

CLUSTERS: dict[str, dict[str, int]] = {
    "OneDevice": {},
    "Mirrored": {"devices_per_worker": 2},
    "MultiWorkerMirrored": {"workers": 2},
    "ParameterServer": {"workers": 2, "ps": 1},
}
DEFAULT = ("OneDevice", "MultiWorkerMirrored", "ParameterServer")
ACCURACY = 0.9
"""What ParameterServer must come to, whose weights are never twice the same."""
PATIENCE_S = 900.0

USER_CODE = '''
"""Prints a line at the end of each epoch and then, apart from that, notes how many there are."""
import itertools
import os

import keras


class Prints(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        # Neither is anything that a checkpoint would hold: every attempt begins with 0.
        self._numbers = itertools.count()
        name = "{DISTRAIN_RUN} {DISTRAIN_TASK} {DISTRAIN_ATTEMPT}".format(**os.environ)
        self._noted = open(os.path.join(os.environ["SOAK_NOTES"], name), "wb", buffering=0)

    def on_epoch_end(self, epoch, logs=None):
        number = next(self._numbers)
        words = f"soak {os.environ['DISTRAIN_ATTEMPT']} {number} " + "x" * 200
        os.write(1, f"{words}\\n".encode())
        os.pwrite(self._noted.fileno(), b"%d" % (number + 1), 0)
'''


@dataclass(frozen=True)
class Run:
    """A run that has ended. `told`: the one JSON object of its standard output."""

    told: dict[str, Any]
    run_dir: Path

    @property
    def injuries(self) -> list[dict[str, Any]]:
        return [injury for injury in self.told.get("injuries", []) if not injury["refused"]]

    def weights(self) -> dict[str, bytes]:
        """Every array of the last checkpoint, by its name."""
        newest = max((self.run_dir / "checkpoints").glob("step-*"))
        with np.load(newest / "state.npz") as state:
            return {name: state[name].tobytes() for name in state.files if name.startswith(("model/", "optimizer/"))}


class Soak:
    """Runs in `folder`. A check that fails raises SystemExit, and leaves the folder for a look."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self._folder = folder
        self._epochs = epochs
        (folder / "notes").mkdir()
        (folder / "soak_user.py").write_text(USER_CODE)

    def job(self, strategy: str) -> Path:
        """The job's file. A checkpoint is so frequent that a run gets on between two kills."""
        path = self._folder / f"{strategy.lower()}.yaml"
        job = {
            "dataset": {"name": "digits", "batch_size": 64},
            "model": {"name": "mlp", "hidden": [64], "dropout": 0.2},
            "training": {
                "epochs": self._epochs,
                "callbacks": ["soak_user:Prints"],
                "deterministic": strategy != "ParameterServer",
            },
            "strategy": strategy,
            "cluster": CLUSTERS[strategy],
            "checkpoint": {"every_epochs": max(1, self._epochs // 100), "keep": 3},
            "restart": {"max": 10_000, "backoff_s": 0},
            "env": {"SOAK_NOTES": str(self._folder / "notes")},
        }
        path.write_text(json.dumps(job))
        return path

    def run(self, *words: str) -> Run:
        """`distrain` with these words, to its end."""
        mark, log = uuid.uuid4().hex, self._folder / "log"
        with log.open("ab") as stderr:
            done = subprocess.run(
                [sys.executable, "-m", "distrain", *words, "--json", "--plain"],
                cwd=self._folder,
                env={**os.environ, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                timeout=PATIENCE_S,
                check=False,
            )
        check(done.returncode == 0, f"distrain {' '.join(words)} ended with {done.returncode}; see {log}")
        wait_until(lambda: not marked(mark), 20, f"no process left of {words}")
        told = json.loads(done.stdout)
        return Run(told, self._folder / "runs" / told["run"])

    def lines_lost(self, run: Run) -> int:
        """How many lines that tasks of the run have printed are not in their logs, whole and in order."""
        lost = 0
        for note in (self._folder / "notes").glob(f"{run.run_dir.name} *"):
            _, task, attempt = note.name.split(" ")
            log = (run.run_dir / "logs" / f"{task.replace(':', '-')}.log").read_text()
            found = [int(number) for number in re.findall(rf"^soak {attempt} (\d+) x{{200}}$", log, re.MULTILINE)]
            noted = int(note.read_text() or 0)
            # What is printed is noted only afterwards, so that the log may have one more.
            check(found == list(range(len(found))), f"{task}, attempt {attempt}: lines are missing within its log")
            lost += max(0, noted - len(found))
        return lost


def check(right: bool, otherwise: str) -> None:
    if not right:
        raise SystemExit(f"soak: {otherwise}")


def soaked(soak: Soak, strategy: str, kills: int, every: str, seed: int) -> Iterator[Run]:
    """The runs of a strategy that it takes until so many kills were made, each checked."""
    job = str(soak.job(strategy))
    undisturbed = soak.run("run", job)
    while kills > 0:
        words = ("--kill", "any", "--times", str(kills), "--every", every, "--seed", str(seed))
        run = soak.run("chaos", job, *words)
        check(bool(run.injuries), "the run ended before anything could be killed; give it more --epochs")
        check(all(injury["resumed_s"] is not None for injury in run.injuries), f"not recovered: {run.told['verdict']}")
        check(run.told["steps"] == undisturbed.told["steps"], f"{run.told['steps']} steps were done")
        if strategy == "ParameterServer":
            accuracy = run.told["metrics"]["validation"]["accuracy"]
            check(accuracy >= ACCURACY, f"validation accuracy {accuracy:.4f}, expected {ACCURACY} or more")
        else:
            check(run.weights() == undisturbed.weights(), f"{run.run_dir}: the weights are not those of a quiet run")
        check(soak.lines_lost(run) == 0, f"{run.run_dir}: lines are missing at the end of its logs")
        kills -= len(run.injuries)
        seed += 1
        yield run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=102, help="how many in all (102)")
    parser.add_argument("--strategy", action="append", choices=CLUSTERS, help=f"in turn ({', '.join(DEFAULT)})")
    parser.add_argument("--epochs", type=int, default=600, help="of each run (600)")
    parser.add_argument("--every", default="1s", help="between two kills, on average (1s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="for the runs, which are kept there")
    asked = parser.parse_args()
    strategies = asked.strategy or list(DEFAULT)
    with ExitStack() as held:
        folder = asked.folder or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="distrain-soak-")))
        folder.mkdir(parents=True, exist_ok=True)
        soak = Soak(folder.resolve(), asked.epochs)
        total = 0
        for number, strategy in enumerate(strategies):
            share = asked.kills // len(strategies) + (number < asked.kills % len(strategies))
            for run in soaked(soak, strategy, share, asked.every, asked.seed + 1000 * number):
                total += len(run.injuries)
                print(f"{strategy}: {run.told['verdict']}", flush=True)
        print(f"{total} kills, and every run ended as if there had been none")


if __name__ == "__main__":
    main()
