"""Saves one state dict as each of several processes does for itself, and the same state dict whole: ranks.py FOLDER."""

import os
import pathlib
import sys
import warnings

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, StateDictType, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

WORLD = 4


def full(state):
    """The state dict as one process would have it; every rank has to call this."""

    def whole(value):
        if isinstance(value, DTensor):
            return value.full_tensor().clone()
        if isinstance(value, dict):
            return {key: whole(item) for key, item in value.items()}
        return value

    return whole(state)


def save(state, folder, rank, stem="model", whole=True):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / f"{stem}_world_size_{WORLD}_rank_{rank}.pt")
    if whole and (value := full(state)) and rank == 0:
        torch.save(value, folder.with_suffix(".pt") if stem == "model" else folder.parent / f"{folder.name}-{stem}.pt")
    dist.barrier()


def placed():
    """Tensors of many sizes, divided in many ways: unevenly, with empty parts, over both dimensions of a mesh."""
    line = init_device_mesh("cpu", (WORLD,))
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    random = torch.Generator().manual_seed(0)
    state = {}
    for i, (mesh, how) in enumerate(
        [
            (line, [Shard(0)]),
            (line, [Shard(1)]),
            (line, [Replicate()]),
            (square, [Shard(0), Shard(1)]),
            (square, [Shard(1), Shard(0)]),
            (square, [Shard(0), Shard(0)]),
            (square, [Replicate(), Shard(0)]),
            (square, [Shard(1), Replicate()]),
        ]
    ):
        for shape in [(9, 5), (2, 7), (8, 4, 3)]:
            tensor = torch.randn(*shape, generator=random)
            tensor = tensor.bfloat16() if i % 2 else tensor
            state[f"layers.{i}.{'x'.join(map(str, shape))}"] = distribute_tensor(tensor, mesh, how)
    state["plain"] = torch.arange(7.0)
    return state


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.Linear(6, 10)
        self.down = torch.nn.Linear(10, 6, bias=False)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def run(rank, folder):
    warnings.simplefilter("ignore")
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    save(placed(), folder / "placed", rank)

    # FSDP over what tensor parallelism divided, with its optimizer.
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    net = Net()
    parallelize_module(net, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
    fully_shard(net, mesh=mesh["dp"])
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(2):
        net(torch.ones(3, 6)).sum().backward()
        optimizer.step()
    save(net.state_dict(), folder / "fsdp2", rank)
    save(optimizer.state_dict(), folder / "fsdp2", rank, "optim")
    save({"rng": torch.tensor([rank])}, folder / "fsdp2", rank, "extra_state", whole=False)

    # A sum that was not made.
    line = init_device_mesh("cpu", (WORLD,))
    partial = DTensor.from_local(torch.ones(3), line, [Partial()])
    save({"sum": partial, "rest": distribute_tensor(torch.ones(5), line, [Shard(0)])}, folder / "partial", rank, whole=False)

    # What is the same in all ranks, but for one.
    plain, everywhere = torch.arange(7.0), torch.zeros(3, 4)
    plain[4] += rank == 3
    everywhere[1, 2] += rank == 2
    everywhere = DTensor.from_local(everywhere, line, [Replicate()], run_check=False)
    save({"plain": plain, "everywhere": everywhere}, folder / "differs", rank, whole=False)

    # What is everywhere but in one rank.
    state = {
        "everywhere": distribute_tensor(torch.ones(3, 4), line, [Replicate()]),
        "plain": torch.arange(7.0),
        "rest": distribute_tensor(torch.ones(5), line, [Shard(0)]),
    }
    if rank == 1:
        del state["everywhere"], state["plain"]
    save(state, folder / "lacks", rank, whole=False)

    # FSDP's first version: sharded, and local state dicts.
    torch.manual_seed(0)
    net = Net()
    whole = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    options = dict(sharding_strategy=ShardingStrategy.FULL_SHARD, device_id=torch.device("cpu"))
    net = FullyShardedDataParallel(net, **options)
    kinds = {"sharded": StateDictType.SHARDED_STATE_DICT, "local": StateDictType.LOCAL_STATE_DICT}
    files = {"sharded": f"model_rank{rank}.pt", "local": f"pytorch_model_rank{rank}.bin"}
    for name, kind in kinds.items():
        with FullyShardedDataParallel.state_dict_type(net, kind):
            (folder / name).mkdir(exist_ok=True)
            torch.save(net.state_dict(), folder / name / files[name])
    # The same with the parameters' own names: pieces of them.
    torch.manual_seed(0)
    net = FullyShardedDataParallel(Net(), use_orig_params=True, **options)
    with FullyShardedDataParallel.state_dict_type(net, StateDictType.LOCAL_STATE_DICT):
        (folder / "pieces").mkdir(exist_ok=True)
        torch.save(net.state_dict(), folder / "pieces" / f"pytorch_model_rank{rank}.bin")
    if rank == 0:
        torch.save(whole, folder / "sharded.pt")
        torch.save(whole, folder / "pieces.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    torch.multiprocessing.spawn(run, args=(out,), nprocs=WORLD)
    (out / "rendezvous").unlink(missing_ok=True)
