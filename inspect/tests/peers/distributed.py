"""Saves one state dict as torch.distributed.checkpoint does, from several processes and in each of its forms, and the
same state dict whole: distributed.py FOLDER."""

import os
import pathlib
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing
from torch.distributed.checkpoint import FileSystemWriter, HuggingFaceStorageWriter
from torch.distributed.checkpoint.filesystem import SerializationFormat
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

WORLD = 4


def weights():
    random = torch.Generator().manual_seed(0)

    def matrix(*shape):
        return torch.randn(*shape, generator=random) * 0.05

    state = {}
    for layer in range(2):
        for name, shape in {
            "self_attn.q_proj": (32, 24),
            "self_attn.k_proj": (16, 24),
            "self_attn.v_proj": (16, 24),
            "self_attn.o_proj": (24, 32),
            "mlp.gate_proj": (49, 24),
            "mlp.up_proj": (49, 24),
            "mlp.down_proj": (24, 49),
        }.items():
            state[f"layers.{layer}.{name}.weight"] = matrix(*shape)
        state[f"layers.{layer}.input_layernorm.weight"] = 1 + 0.01 * matrix(24)
    state["embed_tokens.weight"] = matrix(67, 24).bfloat16()
    state["conv.weight"] = matrix(6, 5, 3, 3)
    return state


def sharded(state):
    line = init_device_mesh("cpu", (WORLD,))
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    placements = [
        (line, [Shard(0)]),
        (line, [Shard(1)]),
        (square, [Shard(0), Shard(1)]),
        (square, [Replicate(), Shard(0)]),
        (square, [Shard(0), Shard(0)]),
    ]
    out = {}
    for i, (name, tensor) in enumerate(state.items()):
        mesh, placement = placements[i % len(placements)] if tensor.dim() > 1 else (line, [Replicate()])
        out[name] = distribute_tensor(tensor, mesh, placement)
    return out


def save(rank, folder):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), GLOO_SOCKET_IFNAME="lo")
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    model = sharded(weights())
    moments = sharded({name: tensor * 0.1 for name, tensor in weights().items() if tensor.dim() > 1})
    state = {name: {"exp_avg": moment, "step": torch.tensor(7.0)} for name, moment in moments.items()}
    group = {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.95), "params": list(state)}
    optimizer = {"state": state, "param_groups": [group]}
    everything = {"model": model, "optimizer": optimizer, "step": 7, "note": "seven"}
    dcp.save(everything, checkpoint_id=f"{folder}/plain")
    dcp.save(everything, storage_writer=FileSystemWriter(f"{folder}/threads", single_file_per_rank=False, thread_count=2))
    dcp.save(everything, storage_writer=FileSystemWriter(f"{folder}/by-rank"), use_collectives=False)
    dcp.async_save(everything, checkpoint_id=f"{folder}/async").result()
    tensors = {"model": model}
    writer = FileSystemWriter(f"{folder}/safetensors", serialization_format=SerializationFormat.SAFETENSORS)
    dcp.save(tensors, storage_writer=writer)
    files = {name: 1 + i % 2 for i, name in enumerate(model)}
    for form, joins in ("hugging-face", False), ("consolidated", True):
        writer = HuggingFaceStorageWriter(f"{folder}/{form}", files, save_distributed=True, enable_consolidation=joins)
        dcp.save(model, storage_writer=writer)
    dist.destroy_process_group()


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1]).resolve()
    torch.multiprocessing.spawn(save, args=(out,), nprocs=WORLD)
    dcp_to_torch_save(out / "plain", out / "whole.pt")
    torch.save({"model": weights()}, out / "weights.pt")
    torch.save(weights(), out / "flat.pt")
    dcp.save(weights(), checkpoint_id=out / "alone")
    torch.save(weights(), out / "alone.pt")
