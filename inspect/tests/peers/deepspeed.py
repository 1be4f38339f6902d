"""Trains a small network for a few steps with DeepSpeed in several processes and saves it with ZeRO 0 to 3, each beside
what zero_to_fp32.py makes of it: deepspeed.py FOLDER [WORLD]."""

import os
import pathlib
import subprocess
import sys

# This file is called like the package.
sys.path = [path for path in sys.path if pathlib.Path(path or ".").resolve() != pathlib.Path(__file__).resolve().parent]
os.environ.update(DS_ACCELERATOR="cpu", DS_BUILD_OPS="0", GLOO_SOCKET_IFNAME="lo")

import torch
import torch.multiprocessing

# Of the sizes none is a multiple of the number of ranks, and a frozen layer, a buffer and tied weights are among them.
VOCABULARY, WIDTH = 13, 6


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.frozen = torch.nn.Linear(WIDTH, 5)
        self.back = torch.nn.Linear(5, WIDTH, bias=False)
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.register_buffer("shift", torch.arange(WIDTH) / 7)
        self.register_buffer("seen", torch.tensor([7]))
        self.lm_head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.embed_tokens.weight
        for parameter in self.frozen.parameters():
            parameter.requires_grad = False

    def forward(self, ids):
        x = self.embed_tokens(ids)
        x = x + self.back(torch.relu(self.frozen(x)))
        return self.lm_head(self.norm(x + self.shift.to(x.dtype)))


def groups(model):
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in trained if p.dim() == 1], "weight_decay": 0.0},
    ]


def train(rank, world, folder, name, stage, more):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(29500 + os.getppid() % 1000))
    import deepspeed

    # It would be compiled first, and is only faster.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", verbose=False)
    torch.manual_seed(0)
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": stage, **more},
        "zero_allow_untested_optimizer": True,
    }
    model = Net()
    optimizer = torch.optim.AdamW(groups(model), lr=1e-2)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    for step in range(3):
        ids = torch.randint(0, VOCABULARY, (4,), generator=torch.Generator().manual_seed(world * step + rank))
        loss = torch.nn.functional.cross_entropy(engine(ids).float(), ids)
        engine.backward(loss)
        engine.step()
    engine.save_checkpoint(f"{folder}/{name}", client_state={"note": "seven"})
    torch.distributed.destroy_process_group()


def save(folder, world):
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    stages = {"zero0": (0, {}), "zero1": (1, {}), "zero2": (2, {}), "zero3": (3, {"sub_group_size": 100})}
    stages["zero2-aligned"] = (2, {"parameter_alignment": True, "round_robin_gradients": True})
    for name, (stage, more) in stages.items():
        torch.multiprocessing.spawn(train, args=(world, folder, name, stage, more), nprocs=world)
        if stage == 0:
            states = torch.load(folder / name / "global_step3" / "mp_rank_00_model_states.pt", weights_only=False)
            whole = states["module"]
        else:
            whole = get_fp32_state_dict_from_zero_checkpoint(folder / name)
        torch.save(dict(whole), folder / f"{name}.pt")
    for name in ["zero2", "zero3"]:
        tag = folder / name / "global_step3"
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
        command += ["--input_folder", tag, "--output_folder", folder / f"universal-{name}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    save(out, int(sys.argv[2]) if len(sys.argv) > 2 else 3)
