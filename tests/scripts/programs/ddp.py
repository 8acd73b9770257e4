"""PyTorch's DistributedDataParallel on CPUs, as torchrun would start it. Usage: ddp.py OUT."""

import atexit
import json
import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from distrain import report

STEPS, BATCH_SIZE = 10, 32
# After everything else that runs at exit, and past the interpreter's own end, in which PyTorch's threads abort now and
# then ("terminate called without an active exception"), whoever starts them.
ended = 1
atexit.register(lambda: os._exit(ended))
if "RANK" in os.environ:
    dist.init_process_group(backend="gloo")
rank, size = dist.get_rank(), dist.get_world_size()
torch.set_num_threads(1)
torch.manual_seed(7)
model = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = torch.randn(STEPS, BATCH_SIZE, 8, generator=torch.Generator().manual_seed(1))
losses = []
for step, batch in enumerate(data):
    mine = batch.chunk(size)[rank]
    loss = ((model(mine) - mine[:, :3].sum(dim=1, keepdim=True)) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    shared = loss.detach().clone()
    dist.all_reduce(shared)
    losses.append(float(shared) / size)
    report(step=step + 1, steps=STEPS, loss=loss)
with open(f"{sys.argv[1]}.{rank}", "w") as file:
    json.dump({"losses": losses, "tensorflow": "tensorflow" in sys.modules, "keras": "keras" in sys.modules}, file)
dist.destroy_process_group()
ended = 0
