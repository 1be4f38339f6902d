"""Rows of very many checkpoints: the functions by themselves, and the scripts of docs/fleet.md on the engines."""

import contextlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ckpt_tools
from conftest import COLLAPSED, FIXTURES, HEALTHY, REPOSITORY

DAMAGED = FIXTURES / "formats" / "truncated.pt"
#: Checkpoints of the run that a worker is killed in.
COUNT = 2000


def code(holding):
    """The example of docs/fleet.md that has ``holding`` in it."""
    blocks = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "fleet.md").read_text(), re.M | re.S)
    (found,) = (block for block in blocks if holding in block)
    return found


@pytest.fixture
def junk(tmp_path):
    path = tmp_path / "junk.safetensors"
    path.write_bytes(b"\xff" * 7 + b"\x7fjunk")
    return path


def test_rows_are_those_of_parquet(program, tmp_path, junk):
    import pyarrow.parquet

    paths = [HEALTHY, COLLAPSED, DAMAGED, junk, tmp_path / "nowhere.pt"]
    for which in ["all", "checkpoints", "tensors"]:
        part = tmp_path / f"{which}.parquet"
        program("inspect", *paths, "-o", part, "--rows", which)
        written = pyarrow.parquet.read_table(part)
        made = ckpt_tools.table(paths, which=which)
        assert made.schema.equals(written.schema) and made.schema == ckpt_tools.schema()
        order = {str(path): i for i, path in enumerate(paths)}
        assert sorted(written.to_pylist(), key=lambda row: order[row["path"]]) == made.to_pylist()
    kinds = [row["row"] for path in paths for row in ckpt_tools.rows(path, which="checkpoints")]
    assert kinds == ["checkpoint"] * 3 + ["unreadable"] * 2


def test_what_cannot_be_read_is_a_row(tmp_path, junk):
    folder = tmp_path / "empty"
    folder.mkdir()
    closed = tmp_path / "closed.pt"
    closed.symlink_to(closed)
    for path in [junk, folder, closed, "", "[", "no-*.pt", "a\0b", "\udcff.pt", "--help", "x" * 5000, Path("a/b")]:
        (row,) = ckpt_tools.rows(path)
        assert (row["row"], row["tensor"]) == ("unreadable", None) and row["reason"] and row["error"], path
        assert ckpt_tools.table([path]).num_rows == 1
    # A name that would be a pattern if there were no such file.
    odd = tmp_path / "a[1]*.pt"
    odd.write_bytes(HEALTHY.read_bytes())
    assert ckpt_tools.rows(odd, which="checkpoints")[0]["verdict"] == "healthy"
    assert len(ckpt_tools.rows(HEALTHY.parent, which="checkpoints")) == 3
    # What is wrong with the options is not about the file.
    with pytest.raises(ckpt_tools.UsageError):
        ckpt_tools.rows(HEALTHY, policy="nowhere.toml")
    with pytest.raises(ValueError, match="which rows"):
        ckpt_tools.rows(HEALTHY, which="some")


def test_no_bytes_make_it_raise(tmp_path):
    """Every fixture, cut and with bytes changed."""
    import random

    random.seed(1)
    path = tmp_path / "file"
    for fixture in sorted((FIXTURES / "formats").glob("*"))[:40]:
        whole = fixture.read_bytes() if fixture.is_file() else b""
        for _ in range(4):
            changed = bytearray(whole[: random.randint(0, len(whole))])
            for _ in range(min(len(changed), 5)):
                changed[random.randrange(min(len(changed), 512))] = random.randrange(256)
            path.write_bytes(changed)
            assert ckpt_tools.table([path]).num_rows >= 1


def test_the_functions_go_to_other_processes():
    cloudpickle = pytest.importorskip("cloudpickle")
    for function in [ckpt_tools.rows, ckpt_tools.table, ckpt_tools.schema]:
        assert pickle.loads(cloudpickle.dumps(function)) is function
    told = "import pickle, sys; print(len(pickle.load(sys.stdin.buffer)(sys.argv[1])))"
    dumped = cloudpickle.dumps(lambda path: ckpt_tools.rows(path, which="tensors"))
    ran = subprocess.run([sys.executable, "-c", told, HEALTHY], input=dumped, capture_output=True)
    assert int(ran.stdout) == len(ckpt_tools.inspect(HEALTHY).tensors), ran.stderr


def test_tables_of_the_gate_are_written(tmp_path):
    import pandas

    ckpt_tools.gate([HEALTHY, COLLAPSED], also=["parquet=gate.parquet"])
    table = pandas.read_parquet("gate.parquet")
    assert table[table.row == "checkpoint"].set_index("path").exit_code.to_dict() == {str(HEALTHY): 0, str(COLLAPSED): 1}
    printed = ckpt_tools.run("gate", str(COLLAPSED), "--format", "csv").output
    assert printed.count("refused") > 5 and printed.startswith("path,step,tensor,")


def write(folder, count):
    """Small checkpoints of which every hundredth is dead and every two hundred and fiftieth is none."""
    import numpy
    from safetensors.numpy import save_file

    folder.mkdir()
    draw = numpy.random.default_rng(0)
    paths = []
    for i in range(count):
        path = folder / f"model-{i:04}.safetensors"
        size = 0 if i % 100 == 99 else 0.2
        weights = {f"layers.{n}.up_proj.weight": size * draw.standard_normal((32, 16), dtype="float32") for n in range(3)}
        save_file(weights, path)
        if i % 250 == 249:
            path.write_bytes(b"junk")
        paths.append(str(path))
    return paths


def each_once(parts, paths):
    """The rows of ``parts`` about checkpoints, of which there is one for each of ``paths``."""
    import pyarrow.dataset

    rows = pyarrow.dataset.dataset(list(map(str, parts)), format="parquet").to_table().to_pylist()
    about = [row for row in rows if row["row"] != "tensor"]
    assert sorted(row["path"] for row in about) == sorted(paths)
    read = {row["path"] for row in about if row["row"] == "checkpoint"}
    tensors = sorted(row["path"] for row in rows if row["row"] == "tensor")
    assert tensors == sorted(path for path in read for _ in range(3))
    assert {row["path"] for row in about if row["verdict"] == "dead"} == {path for path in read if path.endswith("99.safetensors")}
    return about


def descendants(pid):
    """The processes that ``pid`` and its children began, with their titles."""
    parents, titles = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: titles[child] for child in found - {pid}}


def killing_a_worker(line, environment, parts):
    """The exit code of ``line``, of which a worker of Ray is killed at work, and how many parts there were then."""
    killed = None
    with open("log", "w+b") as log:
        running = subprocess.Popen(line, stdout=log, stderr=log, env=environment, start_new_session=True)
        end = time.monotonic() + 300
        try:
            while running.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
                written = len(list(parts.glob("*.parquet")))
                if killed is None and written >= 3:
                    titles = descendants(running.pid).items()
                    working = [pid for pid, title in titles if re.match("ray::.*MapBatches", title)]
                    if working:
                        killed = written
                        os.kill(working[0], signal.SIGKILL)
        finally:
            if running.poll() is None:
                for pid in [*descendants(running.pid), running.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                running.wait()
    return running.returncode, killed


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_ray_loses_nothing_when_a_worker_is_killed(tmp_path, program):
    pytest.importorskip("ray")
    paths = write(tmp_path / "models", COUNT)
    away = Path(paths[10])
    away.rename(tmp_path / "away")
    Path("checkpoints.txt").write_text("\n".join(paths) + "\n")
    Path("fleet.py").write_text(code("import ray"))
    parts = tmp_path / "parts"
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Names of sockets have a limit.
        "RAY_TMPDIR": "/tmp",
    }
    line = [sys.executable, "fleet.py", "checkpoints.txt", str(parts)]
    # Ray gives up where its own services do not answer within seconds, as on a busy machine.
    for _ in range(4):
        ended, killed = killing_a_worker(line, environment, parts)
        if ended == 0 or any(parts.glob("*.parquet")):
            break
    assert ended == 0, Path("log").read_text()[-4000:]
    assert killed is not None and killed < COUNT // 50, killed
    about = each_once(parts.glob("*.parquet"), paths)
    assert sum(row["row"] == "unreadable" for row in about) == COUNT // 250 + 1

    # It goes on: what was away is there now, and a part was cut short when everything ended.
    (tmp_path / "away").rename(away)
    torn = next(part for part in parts.glob("*.parquet") if str(away) not in json.dumps(rows_of(part)))
    torn.write_bytes(torn.read_bytes()[:-20])
    attempts = (subprocess.run(line, env=environment, capture_output=True, timeout=300) for _ in range(4))
    assert any(ran.returncode == 0 for ran in attempts)
    import pyarrow.dataset

    known = pyarrow.dataset.dataset(str(parts), format="parquet").to_table(columns=["row", "path"]).to_pylist()
    read = [row["path"] for row in known if row["row"] == "checkpoint"]
    assert sorted(read) == sorted(path for i, path in enumerate(paths) if i % 250 != 249)
    report = program("report", *parts.glob("*.parquet"), "--format", "json")
    assert report.returncode == 3, report.stderr
    told = json.loads(report.stdout)
    assert len(told["runs"]) == COUNT - COUNT // 250 and len(told["unreadable"]) == COUNT // 250


def rows_of(part):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(part, columns=["path"]).to_pylist()


def test_dask_and_spark_use_the_same_functions(tmp_path):
    paths = write(tmp_path / "models", 120)
    spaces = {}
    exec(code("def with_spark"), spaces)
    import pyarrow

    # What Spark does with it.
    batches = pyarrow.table({"path": paths}).to_batches(max_chunksize=50)
    made = pyarrow.Table.from_batches(spaces["measure"](iter(batches)), schema=ckpt_tools.schema())
    Path("spark").mkdir()
    pyarrow.parquet.write_table(made, "spark/part.parquet")
    each_once(Path("spark").glob("*.parquet"), paths)
    pytest.importorskip("dask.dataframe")
    import dask
    import warnings

    exec(code("import dask"), spaces)
    with warnings.catch_warnings(), dask.config.set(scheduler="threads"):
        warnings.simplefilter("ignore")
        spaces["with_dask"](paths, "dask")
    each_once(Path("dask").glob("*.parquet"), paths)
