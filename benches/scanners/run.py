"""Whether ckpt finds what other scanners find, on their own test files and on published bypasses, in one run.

    run.py [--ckpt PATH] [--files NAME=FOLDER ...] [--archives FOLDER] [--keep FOLDER] [--answers FILE]

The files: one for each advisory (advisories.py); the test files in the archives of picklescan, fickling, modelscan and
modelaudit on PyPI, where they have such; and the folders that --files names, which hold files of the source NAME, as in
`--files picklescan=CHECKOUT/tests/data`. Every scanner, ckpt too, is asked about each; none loads it.

Prints tables in Markdown. What another scanner suspects and ckpt does not either has a reason in reasons.py, why no
loader runs anything, or is missed, and then the exit code is 1. `../../.ci/peers` installs what is needed and runs this.

--keep keeps the files there. --answers keeps what the scanners said, and takes it from there in the next run."""

import argparse
import collections
import datetime
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import advisories
import reasons

SCANNERS = ["picklescan", "fickling", "modelscan", "modelaudit"]
CAUGHT = ("dangerous", "suspicious", "unknown")
# Larger ones are no test files.
LARGEST = 4 << 20


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ckpt", type=Path, default=HERE.parents[1] / "target" / "release" / "ckpt", help="the built program")
    parser.add_argument("--files", action="append", default=[], metavar="NAME=FOLDER", help="more files of that source")
    parser.add_argument("--archives", type=Path, help="where archives of PyPI lie or are fetched to; by default a folder that is removed")
    parser.add_argument("--keep", type=Path, help="keep the files in this folder")
    parser.add_argument("--answers", type=Path, help="keep what the scanners said in this file, and read it from there")
    return parser.parse_args()


def published(name, archives):
    """The test files in a scanner's archive on PyPI: their paths and bytes."""
    archives.mkdir(parents=True, exist_ok=True)
    wanted = f"{name}=={version(name)}"
    if not list(archives.glob(f"{name}-{version(name)}.tar.gz")):
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name, "-d", str(archives), wanted]
        subprocess.run(fetch, check=False, stdout=sys.stderr)
    for path in archives.glob(f"{name}-{version(name)}.tar.gz"):
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                parts = Path(member.name).parts[1:]
                if member.isfile() and parts[:1] in (("tests",), ("test",)) and not member.name.endswith(".py"):
                    yield "/".join(parts[1:]), archive.extractfile(member).read()


def below(folder):
    """The files in a folder: their paths and bytes."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


def collect(options, folder, archives):
    """Writes every file to `folder`, once, below the name of its source."""
    seen = set()

    def write(source, files):
        count = 0
        for name, data in files:
            path = folder / source / name
            if 0 < len(data) <= LARGEST and (source, path.name, data) not in seen and not path.exists():
                seen.add((source, path.name, data))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                count += 1
        return count

    write("advisories", ((name, data) for name, _, _, data in advisories.files()))
    for given in options.files:
        source, _, path = given.partition("=")
        if not write(source, below(Path(path))):
            sys.exit(f"{path} holds no files")
    for source in SCANNERS:
        if not write(source, published(source, archives)):
            given = any(given.startswith(source + "=") for given in options.files)
            print(f"skipped: {source}'s archive on PyPI has no {'other ' if given else ''}test files", file=sys.stderr)


def ours(ckpt, path):
    """What ckpt says of a file: the verdict, its findings, and the names that it takes for harmless."""
    out = subprocess.run([ckpt, "scan", "--format", "json", path], capture_output=True, text=True)
    if out.returncode not in (0, 1, 3):
        sys.exit(f"{ckpt} ends with {out.returncode} on {path}:\n{out.stderr}")
    file = json.loads(out.stdout)["files"][0]
    severities = {finding["severity"] for finding in file["findings"]}
    verdict = "clean" if out.returncode == 0 else "not scanned"
    if out.returncode == 1:
        verdict = "dangerous" if "dangerous" in severities else "unknown"
    return verdict, file["harmless"], [finding["message"] for finding in file["findings"]]


def main():
    """Collects, asks, compares."""
    options = arguments()
    with tempfile.TemporaryDirectory() as made:
        folder = options.keep or Path(made) / "files"
        shutil.rmtree(folder, ignore_errors=True)
        collect(options, folder, options.archives or Path(made) / "archives")
        answers = {"verdicts": {}}
        if options.answers and options.answers.exists():
            answers = json.loads(options.answers.read_text())
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        if not set(names) <= set(answers["verdicts"]):
            script = HERE.parents[1] / "inspect" / "tests" / "peers" / "scan.py"
            told = subprocess.run([sys.executable, script, folder, *SCANNERS], check=True, capture_output=True, text=True).stdout
            answers = json.loads(told)
            if options.answers:
                options.answers.write_text(told)
        said = {name: ours(options.ckpt, folder / name) for name in names}
        explained, unfound = compare(folder, names, said, answers)
    program = subprocess.run([options.ckpt, "--version"], capture_output=True, text=True).stdout.strip()
    return report(program, names, said, answers, explained, unfound)


def compare(folder, names, said, answers):
    """What others suspect and ckpt does not: the files of each reason, and those that have none, with who suspects them and why."""
    made = {f"advisories/{name}": about for name, _, about, _ in advisories.files()}
    benign = {f"own/{name}" for name in re.findall(r"^\| `([^`]+)` \| benign: ", (HERE.parents[1] / "docs" / "scan-table.md").read_text(), re.M)}
    explained, unfound = collections.defaultdict(set), {}
    for name in names:
        if said[name][0] != "clean":
            continue
        if name in made:
            unfound[name] = made[name], []
        for scanner in SCANNERS:
            if answers["verdicts"][name][scanner] not in CAUGHT:
                continue
            told = answers["reasons"][name][scanner]
            reason = "it is made to be benign" if name in benign else reasons.why_not(folder / name, scanner, told, said[name][1])
            if name not in made and reason:
                explained[scanner, reason].add(name)
            else:
                unfound.setdefault(name, ("", []))[1].append(f"{scanner} ({'; '.join(told)[:160]})")
    return explained, unfound


def report(program, names, said, answers, explained, unfound):
    """Prints the tables, and returns the exit code."""
    versions = ", ".join(f"{scanner} {answers['versions'][scanner]}" for scanner in SCANNERS)
    print(f"{program} and {versions}, {datetime.date.today()}.\n")
    print("| files | | ckpt | not scanned by ckpt | " + " | ".join(SCANNERS) + " |")
    print("|---|---|---|---|" + "---|" * len(SCANNERS))
    for source in dict.fromkeys(name.split("/")[0] for name in names):
        of = [name for name in names if name.split("/")[0] == source]
        counts = [sum(said[name][0] in CAUGHT for name in of), sum(said[name][0] == "not scanned" for name in of)]
        counts += [sum(answers["verdicts"][name][scanner] in CAUGHT for name in of) for scanner in SCANNERS]
        print(f"| {source} | {len(of)} | " + " | ".join(map(str, counts)) + " |")
    print("\n| suspected by | files | and not by ckpt, because |\n|---|---|---|")
    for (scanner, reason), files in sorted(explained.items()):
        print(f"| {scanner} | {len(files)} | {reason} |")
    alone = [name for name in names if said[name][0] in CAUGHT and not any(answers["verdicts"][name][scanner] in CAUGHT for scanner in SCANNERS)]
    print(f"\nFound by ckpt alone: {len(alone)}.")
    for name in alone:
        print(f"  {name}: {'; '.join(said[name][2])[:150]}", file=sys.stderr)
    if unfound:
        print(f"\nMissed by ckpt: {len(unfound)}.\n")
        for name, (about, others) in sorted(unfound.items()):
            print(f"- `{name}`{about and ': ' + about}; found by {', '.join(others) or 'no other'}")
    return 1 if unfound else 0


if __name__ == "__main__":
    sys.exit(main())
