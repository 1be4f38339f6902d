"""A model that ranks share out: what one of them has is not all of it."""

import pickle
import subprocess
import sys

import pytest
import torch
from ckpt_tools import UnsupportedError, UsageError
from ckpt_tools.integrations import HealthMonitor

RANK = """
import json, sys
import torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import init_device_mesh
from ckpt_tools.integrations import HealthMonitor

folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
torch.manual_seed(0)
# The last one has one row, of which the second rank has nothing.
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.LayerNorm(64), torch.nn.Linear(64, 1))
with torch.no_grad():
    model[0].weight[32:] = 0
fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
logged = []
with HealthMonitor(model, every=2, stop_on="dead", log=lambda metrics, step: logged.append(step)) as monitor:
    stopped = [monitor.step(step) for step in (1, 2)]
# As often as the time allows, at the same steps: else the ranks would wait for each other without end.
seldom = HealthMonitor(model, stop_on=None, log=None)
measured = []
for step in range(30):
    seldom.step(step)
    measured.append(seldom.health.step)
seldom.close()
told = {
    "stopped": stopped, "verdict": monitor.health.verdict, "own": monitor.health.inspection.verdict,
    "reasons": monitor.health.reasons, "dead": monitor.health.metrics["health/dead"], "logged": logged, "measured": measured,
}
print(json.dumps(told))
dist.destroy_process_group()
"""


def test_the_worst_part_of_all_ranks_counts(tmp_path):
    import json

    start = [sys.executable, "-c", RANK, str(tmp_path)]
    ranks = [subprocess.Popen([*start, str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    first, second = (json.loads(rank.communicate(timeout=300)[0].splitlines()[-1]) for rank in ranks)
    assert (first["own"], second["own"]) == ("healthy", "dead")
    for told in (first, second):
        assert told["stopped"] == [False, True] and told["verdict"] == "dead" and told["dead"] == 1, told
        assert "0.weight" in told["reasons"][0]
    assert first["measured"] == second["measured"]
    assert (first["logged"], second["logged"]) == ([2], []), "one rank logs"


def test_parameters_that_no_rank_knows_are_not_called_healthy():
    for mark in ("_fsdp_flattened", "ds_id"):
        model = torch.nn.Linear(4, 4)
        setattr(model.weight, mark, True)
        with pytest.raises(UnsupportedError, match="FSDP2"):
            HealthMonitor(model)


def test_a_monitor_that_has_measured_can_be_pickled_and_goes_on():
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 64)
    monitor = HealthMonitor(model, every=1, log=None)
    monitor.step(1)
    again = pickle.loads(pickle.dumps(monitor))
    assert again.health.verdict == "healthy" and again.health.inspection.verdict == "healthy"
    again.step(2)
    again.close()
    assert again.health.step == 2
    monitor.close()
    with pytest.raises(UsageError, match="closed"):
        monitor.step(3)
