"""Makes distributed/: a small state dict as two processes of PyTorch 2.15 save it, and whole. From this folder:
python distributed.py"""

import os
import pathlib
import shutil

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

FOLDER = pathlib.Path(__file__).resolve().parent / "distributed"


def save(rank):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"file://{FOLDER}/rendezvous", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    weights = {
        "layers.0.mlp.up_proj.weight": (torch.randn(9, 6) * 0.05, Shard(0)),
        "layers.0.mlp.down_proj.weight": (torch.randn(6, 9) * 0.05, Shard(1)),
        "layers.0.input_layernorm.weight": (torch.ones(6), Replicate()),
        "norm.weight": (torch.ones(6), Replicate()),
        "embed_tokens.weight": ((torch.randn(10, 6) * 0.05).bfloat16(), Shard(0)),
    }
    model = {name: distribute_tensor(tensor, mesh, [how]) for name, (tensor, how) in weights.items()}
    name = "layers.0.mlp.up_proj.weight"
    state = {name: {"exp_avg": distribute_tensor(torch.zeros(9, 6), mesh, [Shard(0)]), "step": torch.tensor(7.0)}}
    optimizer = {"state": state, "param_groups": [{"lr": 1e-3, "weight_decay": 0.1, "params": [name]}]}
    dcp.save({"model": model, "optimizer": optimizer, "step": 7}, checkpoint_id=FOLDER / "step-7")
    dist.destroy_process_group()


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    torch.multiprocessing.spawn(save, nprocs=2)
    (FOLDER / "rendezvous").unlink(missing_ok=True)
    dcp_to_torch_save(FOLDER / "step-7", FOLDER / "whole.pt")
