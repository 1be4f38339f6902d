"""Losses and gradients of single positions as PyTorch computes them in float64: `python losses.py > losses.json`."""
import json

import torch
import torch.nn.functional as F

torch.manual_seed(3)
cases = []
for smoothing, focal, alpha, temperature, taught in [
    (0.0, 0.0, 0.5, 2.0, False),
    (0.1, 0.0, 0.5, 2.0, False),
    (0.0, 2.0, 0.5, 2.0, False),
    (0.2, 0.5, 0.5, 2.0, False),
    (0.0, 0.0, 1.0, 1.0, True),
    (0.0, 0.0, 0.5, 2.0, True),
    (0.1, 1.5, 0.3, 4.0, True),
    (0.0, 0.0, 0.0, 2.0, True),
    (0.0, 0.0, 0.9, 0.5, "sparse"),
]:
    z = (3 * torch.randn(37)).float().double().requires_grad_()
    target = torch.tensor(5)
    entropy = F.cross_entropy(z[None], target[None], label_smoothing=smoothing)
    focus = (1 - F.softmax(z, 0)[target]) ** focal
    loss, q = focus * entropy, None
    if taught:
        q = F.softmax(2 * torch.randn(37).double(), 0)
        if taught == "sparse":
            q[torch.randperm(37)[:30]] = 0
            q /= q.sum()
        q = q.float().double()
        divergence = F.kl_div(F.log_softmax(z / temperature, 0), q, reduction="sum")
        loss = (1 - alpha) * loss + alpha * temperature**2 * divergence
    loss.backward()
    rounded = lambda t: [float(f"{x:.9g}") for x in t.tolist()]
    cases.append(
        dict(label_smoothing=smoothing, focal=focal, alpha=alpha, temperature=temperature, target=5,
             logits=rounded(z.detach()), teacher=None if q is None else rounded(q), loss=loss.item(),
             gradient=rounded(z.grad))
    )
print(json.dumps(cases))
