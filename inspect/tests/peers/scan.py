"""What picklescan and fickling say of every file in a folder, as JSON. Neither unpickles anything to scan it."""

import importlib.metadata
import json
import logging
import sys
import warnings
import zipfile
from pathlib import Path

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

from fickling.analysis import Severity
from fickling.loader import scan_file, scan_zip_archive
from picklescan.scanner import SafetyLevel, scan_file_path


def picklescan(path):
    try:
        result = scan_file_path(str(path))
    except Exception:
        return "no answer"
    if result.issues_count:
        return "dangerous"
    if any(g.safety == SafetyLevel.Suspicious for g in result.globals):
        return "suspicious"
    return "no answer" if result.scan_err else "clean"


def fickling(path):
    # As its command line does: archives by their members, everything else as pickles.
    try:
        if zipfile.is_zipfile(path):
            results = list(scan_zip_archive(str(path), graceful=True).values())
        else:
            results = [scan_file(str(path), graceful=True)]
    except Exception:
        return "no answer"
    found = [finding for result in results for finding in result.results]
    worst = max((finding.severity for finding in found), default=Severity.LIKELY_SAFE)
    if worst >= Severity.LIKELY_UNSAFE:
        return "dangerous"
    if worst > Severity.LIKELY_SAFE:
        return "suspicious"
    return "no answer" if any(result.errors for result in results) or not results else "clean"


# Both print as they go.
out, sys.stdout = sys.stdout, sys.stderr
folder = Path(sys.argv[1])
verdicts = {p.name: {"picklescan": picklescan(p), "fickling": fickling(p)} for p in sorted(folder.iterdir())}
versions = {name: importlib.metadata.version(name) for name in ("picklescan", "fickling")}
json.dump({"versions": versions, "verdicts": verdicts}, out)
