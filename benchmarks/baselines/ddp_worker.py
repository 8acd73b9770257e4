"""One worker of a DistributedDataParallel training with checkpoints, as PyTorch's own documentation has it.

Under torchrun: ddp_worker.py FOLDER BATCH_SIZE STEPS CHECKPOINT EVERY_STEPS. BATCH_SIZE is global. It goes on from
CHECKPOINT where that is there. Each worker prints JSON lines: first {"rank": 1, "pid": 1234}, then rank 0 one per step,
once the step's loss is known: {"step": 1, "loss": 2.3}.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed
from mnist_task import LEARNING_RATE, load
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def build() -> nn.Module:
    """The same network as the other baselines'."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 12 * 12, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def save(path: Path, state: dict[str, object]) -> None:
    hidden = path.with_suffix(".new")
    torch.save(state, hidden)
    os.replace(hidden, path)


def say(**what: float) -> None:
    # In one write: the lines of both workers go into one pipe.
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(folder: str, batch_size: int, steps: int, checkpoint: Path, every_steps: int) -> None:
    torch.distributed.init_process_group("gloo")
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    say(rank=rank, pid=os.getpid())
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // size))
    images, labels = (torch.from_numpy(array) for array in load(Path(folder)))
    images, labels = images.reshape(-1, 1, 28, 28), labels.long()
    torch.manual_seed(1)
    model = DistributedDataParallel(build())
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    share = batch_size // size
    for step in range(done + 1, steps + 1):
        drawn = torch.randint(len(images), (batch_size,), generator=torch.Generator().manual_seed(step))
        mine = drawn[rank * share : (rank + 1) * share]
        loss = nn.functional.cross_entropy(model(images[mine]), labels[mine])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0:
            say(step=step, loss=float(loss))
            if step % every_steps == 0:
                state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                save(checkpoint, state)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
