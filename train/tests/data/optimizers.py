"""Writes optimizers.json: weights after 12 steps of each optimizer on made-up gradients, in float64 on PyTorch."""
import json, math, os, torch

torch.set_default_dtype(torch.float64)
SHAPES = [(6, 10), (9, 4), (7,)]


def wave(seed, n):
    return torch.tensor([math.sin(0.37 * i + 1.7 * seed) * (0.3 + 0.1 * math.cos(2.1 * i * seed)) for i in range(n)])


def newton_schulz(m):
    norm = m.norm()
    x = m / (norm + 1e-7)
    for _ in range(5):
        x = x @ (1.5 * torch.eye(x.shape[1]) - 0.5 * x.T @ x)
    return x * norm


def quintic(m):
    x = m / (m.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def run(name):
    parameters = [(wave(k + 1, math.prod(s)) * 0.1).reshape(s).requires_grad_() for k, s in enumerate(SHAPES)]
    matrices, rest = [p for p in parameters if p.dim() == 2], [p for p in parameters if p.dim() < 2]
    buffers = [torch.zeros_like(p) for p in parameters]
    norms = []
    if name.startswith("adamw"):
        opt = torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    elif name == "sgd":
        opt = torch.optim.SGD(parameters, lr=1e-2, momentum=0.9)
    elif name == "muon":
        # Every matrix is ternary here (decay 0.2), vectors are not (0.1).
        opt = torch.optim.AdamW(rest, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    elif name == "muon-adamw":
        opt = torch.optim.AdamW(rest, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    else:
        opt = None
    schedule = name == "adamw-cosine-clip"
    if schedule:
        factor = lambda s: s / 4 if s < 4 else 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (s - 4) / 8))
        scheduler = torch.optim.lr_scheduler.LambdaLR(opt, factor)
    for step in range(12):
        for k, p in enumerate(parameters):
            p.grad = wave(10 * (k + 1) + step, p.numel()).reshape(p.shape)
        if schedule:
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).item())
        if opt:
            opt.step()
        if schedule:
            scheduler.step()
        with torch.no_grad():
            for p, b in zip(parameters, buffers):
                if name.startswith("muon") and p.dim() == 2:
                    p *= 1 - 0.02 * 0.2
                    b.mul_(0.95).add_(p.grad)
                    if name == "muon":
                        p -= 0.02 * max(1, p.shape[0] / p.shape[1]) ** 0.5 * quintic(p.grad + 0.95 * b)
                    else:
                        p -= 0.02 * newton_schulz(p.grad + 0.95 * newton_schulz(b))
                if name == "spin":
                    b.copy_(0.9 * b + 0.1 * torch.sign(p.grad))
                    d = torch.sign(b)
                    p -= 1e-3 * d
                    p += torch.where(p.abs() < 0.05, -d * 1e-3 * 2.0, torch.zeros_like(p))
    return {"weights": [p.detach().flatten().tolist() for p in parameters], "norms": norms}


names = ["adamw", "adamw-cosine-clip", "sgd", "muon", "muon-adamw", "spin"]
with open(os.path.join(os.path.dirname(__file__), "optimizers.json"), "w") as file:
    json.dump({name: run(name) for name in names}, file)
