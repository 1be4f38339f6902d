"""Writes optimizers/*.pt and optimizers.json: what PyTorch's optimizers make of weights that get no gradient.

The truth is measured, not derived: the fall of ln |W| per step over the second half of 400 steps."""
import json
import torch

STEPS = 400
torch.manual_seed(0)


def model():
    torch.manual_seed(1)
    parts = torch.nn.ModuleDict(dict(up=torch.nn.Linear(8, 12), norm=torch.nn.LayerNorm(12),
                                     down=torch.nn.Linear(12, 8), head=torch.nn.Linear(8, 12)))
    return parts.double()


def groups(m, decay):
    """The usual split: matrices decay, vectors do not."""
    return [dict(params=[p for p in m.parameters() if p.dim() >= 2], weight_decay=decay),
            dict(params=[p for p in m.parameters() if p.dim() < 2], weight_decay=0.0)]


def two(m, first, second, wanted):
    """Two groups by name, as fine-tuning scripts make them."""
    named = list(m.named_parameters())
    return [dict(params=[p for n, p in named if wanted(n)], **first),
            dict(params=[p for n, p in named if not wanted(n)], **second)]


O = torch.optim
CASES = dict(
    adamw=lambda m: O.AdamW(groups(m, 0.1), lr=0.01),
    adamw_named=lambda m: O.AdamW(m.named_parameters(), lr=0.02, weight_decay=0.05),
    adam_l2=lambda m: O.Adam(m.parameters(), lr=1e-4, weight_decay=0.1),
    sgd=lambda m: O.SGD(m.parameters(), lr=0.1, weight_decay=0.01),
    sgd_momentum=lambda m: O.SGD(m.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01),
    sgd_nesterov=lambda m: O.SGD(m.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.01),
    sgd_two=lambda m: O.SGD(two(m, dict(weight_decay=0.05), dict(weight_decay=0.01), lambda n: n.startswith("down")),
                            lr=0.02, momentum=0.5, dampening=0.5),
    # Two matrices have the shape of the first group's only one, so the file does not tell which it is.
    sgd_unclear=lambda m: O.SGD(two(m, dict(weight_decay=0.05), dict(weight_decay=0.01), lambda n: n == "head.weight"),
                                lr=0.02, momentum=0.9),
    muon=lambda m: O.Muon([p for p in m.parameters() if p.dim() == 2], lr=0.02, weight_decay=0.1),
)
truth = {}
for name, make in CASES.items():
    m = model()
    optimizer = make(m)
    marks = []
    for step in range(STEPS):
        for p in m.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        if step + 1 in (STEPS // 2, STEPS):
            marks.append({n: p.detach().norm().log().item() for n, p in m.named_parameters()})
    rates = {n: (marks[0][n] - marks[1][n]) / (STEPS // 2) for n, p in m.named_parameters() if p.dim() == 2}
    truth[name] = rates
    state = {k: v.float() for k, v in m.state_dict().items()}
    torch.save(dict(model_state_dict=state, optimizer_state_dict=optimizer.state_dict(), step=STEPS),
               f"optimizers/{name}.pt")
json.dump(truth, open("optimizers.json", "w"), indent=1)
