"""What one task is to do, as the launcher wrote it: the worker's own frozen view of the JSON on its standard input.

Checks the envelope only; the job inside was checked before anything started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Assignment:
    """`job` is `JobSpec.to_json()`. `threads` is how many cores the task may keep busy. The chief alone writes into
    `run_dir`. `checkpoints`: the folder that those go to, None: none are written. `resume`: what to go on from, None at
    the beginning: "path", the folder of a checkpoint, and "skip_to", the step to go on with where that is not the
    checkpoint's own, else None. `one_host`: all of the job's tasks are on this host. `data_service`: the addresses of
    tf.data's service, "dispatcher" and "workers", None where the job has none. `role` and `index` are those of `task`,
    which is named `role:index`.
    """

    task: str
    chief: bool
    run: str
    run_dir: Path
    attempt: int
    threads: int
    one_host: bool
    import_paths: tuple[str, ...]
    job: Mapping[str, Any]
    checkpoints: Path | None = None
    resume: Mapping[str, Any] | None = None
    data_service: Mapping[str, Any] | None = None

    @property
    def role(self) -> str:
        return self.task.partition(":")[0]

    @property
    def index(self) -> int:
        return int(self.task.partition(":")[2])

    @property
    def training(self) -> Mapping[str, Any]:
        return self.job["training"]

    @property
    def workers(self) -> int:
        return self.job["cluster"]["workers"]

    @property
    def batch_size(self) -> int:
        """Examples per step, over the whole cluster."""
        return self.job["dataset"]["batch_size"]

    @property
    def seed(self) -> int:
        return self.training["seed"]


def read_assignment(text: str) -> Assignment:
    """The assignment that `text` holds.

    Raises:
        ValueError: it holds something else.
    """
    try:
        fields = dict(json.loads(text))
        if (version := fields.pop("format")) != FORMAT:
            raise ValueError(f"an assignment of format {version}, but this worker reads format {FORMAT}")
        fields["run_dir"] = Path(fields["run_dir"])
        fields["checkpoints"] = Path(fields["checkpoints"]) if fields.get("checkpoints") else None
        fields["import_paths"] = tuple(fields["import_paths"])
        return Assignment(**fields)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"standard input holds no assignment for a distrain task: {text[:80]!r} ({error!r})"
        ) from error
