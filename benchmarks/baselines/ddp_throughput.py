"""One worker of a DistributedDataParallel training on the CPU, written for speed.

Under torchrun: ddp_throughput.py FOLDER --batch-size N --epochs N. The batch size is global. Rank 0 prints JSON lines:
first {"parameters": 592074}, then {"step": 62} at each epoch's end.

Data lie in memory, where slices of an order that is drawn once an epoch cost less than any DataLoader; nothing is read
back before an epoch ends. The defaults are the fastest that were found; the options try others.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed
from mnist_task import LEARNING_RATE, load
from torch import nn
from torch.nn.parallel import DistributedDataParallel

PIXEL_SCALE = 4.0


class Network(nn.Module):
    """The same network as the other baselines'."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 12 * 12, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images * PIXEL_SCALE)


def say(**what: float) -> None:
    print(json.dumps(what), flush=True)


def main(options: argparse.Namespace) -> None:
    torch.distributed.init_process_group("gloo")
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.set_num_threads(options.threads or max(1, len(os.sched_getaffinity(0)) // size))
    images, labels = (torch.from_numpy(array) for array in load(options.folder))
    images, labels = images.reshape(-1, 1, 28, 28), labels.long()
    torch.manual_seed(1)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    network = Network().to(memory_format=layout)
    model = DistributedDataParallel(network, gradient_as_bucket_view=True, static_graph=True)
    run = torch.compile(model) if options.compile else model
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=options.fused)
    loss_of = nn.CrossEntropyLoss()
    if rank == 0:
        say(parameters=sum(each.numel() for each in network.parameters()))
    share = options.batch_size // size
    steps = len(images) // options.batch_size
    for epoch in range(options.epochs):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        losses = torch.zeros(())
        for step in range(steps):
            start = step * options.batch_size + rank * share
            mine = order[start : start + share]
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(run(images[mine].to(memory_format=layout)), labels[mine])
            loss.backward()
            optimizer.step()
            losses += loss.detach()
        if rank == 0:
            say(step=(epoch + 1) * steps, loss=float(losses) / steps)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0, help="of each worker, 0: its share of the cores")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--fused", action=argparse.BooleanOptionalAction, default=True)
    main(parser.parse_args())
    sys.stdout.flush()
    os._exit(0)  # PyTorch's threads abort now and then at the interpreter's own end
