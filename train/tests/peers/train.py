"""PyTorch loads the checkpoints in the runs below argv[1], and its optimizers accept and continue their state."""
import pathlib
import sys

import numpy
import torch

root = pathlib.Path(sys.argv[1])
assert numpy.load(root / "ids.npy").shape == (23, 24)
for run, groups in {"adamw": 1, "polarized-adamw": 2}.items():
    saved = torch.load(root / run / "step-002004.pt", weights_only=True)
    weights = saved["model_state_dict"]
    state = saved["optimizer_state_dict"]
    assert saved["step"] == saved["training_state"]["step"] == 2004
    assert len(state["param_groups"]) == groups
    order = [weights[name].clone().requires_grad_() for g in state["param_groups"] for name in g["param_names"]]
    assert len(order) == len(weights)
    split, first = [], 0
    for group in state["param_groups"]:
        split.append({"params": order[first : first + len(group["params"])]})
        first += len(group["params"])
    optimizer = torch.optim.AdamW(split, lr=1.0)
    optimizer.load_state_dict({k: state[k] for k in ("state", "param_groups")})
    for parameter in order:
        moments = optimizer.state[parameter]
        assert moments["step"].item() == 4 and moments["exp_avg"].shape == parameter.shape
        assert moments["exp_avg_sq"].abs().sum() > 0
        parameter.grad = torch.ones_like(parameter)
    before = order[0].detach().clone()
    optimizer.step()
    assert optimizer.state[order[0]]["step"].item() == 5 and not torch.equal(before, order[0])
    assert abs(optimizer.param_groups[0]["lr"] - 3e-4) < 1e-12
saved = torch.load(root / "muon-adamw" / "step-002004.pt", weights_only=True)
state = saved["optimizer_state_dict"]
assert set(state) == {"muon", "adamw"}
assert state["muon"]["state"][0]["momentum_buffer"].shape == saved["model_state_dict"]["embed_tokens.weight"].shape
rest = [v.clone().requires_grad_() for v in saved["model_state_dict"].values() if v.dim() < 2]
torch.optim.AdamW(rest).load_state_dict(state["adamw"])
print("fine")
