"""What ckpt says of the files of a folder."""

import json
import os
import subprocess
import sys


def answers(ckpt, folder):
    """Its answer on each file that it lists, by name."""
    run = subprocess.run([ckpt, "scan", "--format", "json", "--all", folder], capture_output=True)
    if run.returncode not in (0, 1, 3):
        sys.exit(f"{ckpt} ends with {run.returncode}: {run.stderr.decode(errors='replace')[-2000:]}")
    return {os.path.basename(file["path"]): file for file in json.loads(run.stdout)["files"]}


def severity(answer):
    worst = {finding["severity"] for finding in answer["findings"]}
    return next((name for name in ("dangerous", "unknown", "note") if name in worst), "clean")


def suspected(answer):
    """Whether the file is refused: for a finding, or because not all of it could be read."""
    return severity(answer) in ("dangerous", "unknown") or answer["unreadable"] is not None


def shared_memory():
    """Where many small files are written fastest."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None
