"""Trains a small network whose experts are shared by ranks with DeepSpeed and saves it without ZeRO and with its stages 1 and
2, each beside the fp32 weights, and without ZeRO the moments, that DeepSpeed says every parameter has: experts.py FOLDER."""

import os
import pathlib
import re
import sys

# A file beside this one is called like the package.
sys.path = [path for path in sys.path if pathlib.Path(path or ".").resolve() != pathlib.Path(__file__).resolve().parent]
os.environ.update(DS_ACCELERATOR="cpu", DS_BUILD_OPS="0", GLOO_SOCKET_IFNAME="lo")

import torch
import torch.multiprocessing

VOCABULARY, WIDTH, EXPERTS = 13, 8, 4


def network(sharing):
    from deepspeed.moe.layer import MoE

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(VOCABULARY, WIDTH)
            layers = [self.experts() for _ in range(2)]
            self.layers = torch.nn.ModuleList(layers)
            self.norm = torch.nn.LayerNorm(WIDTH)
            self.head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)

        def experts(self):
            expert = torch.nn.Sequential(torch.nn.Linear(WIDTH, 12), torch.nn.ReLU(), torch.nn.Linear(12, WIDTH))
            more = {"k": 1, "min_capacity": 8, "capacity_factor": 4.0}
            return MoE(WIDTH, expert, num_experts=EXPERTS, ep_size=sharing, **more)

        def forward(self, ids):
            x = self.embed(ids)
            for layer in self.layers:
                x = x + layer(x)[0]
            return self.head(self.norm(x))

    return Net()


def train(rank, world, sharing, folder, name, stage):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(29500 + os.getppid() % 1000))
    import deepspeed
    from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer as split
    from deepspeed.utils import groups, safe_get_full_fp32_param

    # It would be compiled first, and is only faster.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", verbose=False)
    torch.manual_seed(rank)
    config = {"train_micro_batch_size_per_gpu": 4, "zero_allow_untested_optimizer": True}
    if stage:
        config.update(zero_optimization={"stage": stage}, bf16={"enabled": True})
    model = network(sharing)
    optimizer = torch.optim.AdamW(split({"params": list(model.parameters()), "name": "main"}), lr=1e-2)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    for step in range(3):
        ids = torch.randint(0, VOCABULARY, (16,), generator=torch.Generator().manual_seed(world * step + rank))
        loss = torch.nn.functional.cross_entropy(engine(ids).float(), ids)
        engine.backward(loss)
        engine.step()
    engine.save_checkpoint(f"{folder}/{name}")
    place = groups._get_expert_parallel_rank(f"ep_size_{sharing}")
    held = EXPERTS // sharing
    everything = {}
    for own, parameter in model.named_parameters():
        numbered = lambda found: f"deepspeed_experts.{int(found[1]) + place * held}."
        called = re.sub(r"deepspeed_experts\.(\d+)\.", numbered, own)
        everything[called] = safe_get_full_fp32_param(parameter) if stage else parameter.detach()
        for moment in [] if stage else ["exp_avg", "exp_avg_sq"]:
            everything[f"{moment}/{called}"] = optimizer.state[parameter][moment]
    torch.save({key: value.clone().contiguous() for key, value in everything.items()}, f"{folder}/{name}.{rank}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1]).resolve()
    for name, world, sharing, stage in [("whole", 2, 2, 0), ("zero1", 4, 2, 1), ("zero2", 2, 2, 2)]:
        torch.multiprocessing.spawn(train, args=(world, sharing, out, name, stage), nprocs=world)
        all = {}
        for rank in range(world):
            all.update(torch.load(out / f"{name}.{rank}"))
        torch.save(all, out / f"{name}.pt")
