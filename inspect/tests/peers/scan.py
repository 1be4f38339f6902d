"""What other scanners say of every file in a folder, as JSON: scan.py FOLDER [SCANNER...], by default picklescan and fickling.
None unpickles anything to scan it. CKPT_KEEP names a folder that the files are copied to."""

import contextlib
import importlib.metadata
import json
import logging
import os
import shutil
import signal
import sys
import warnings
import zipfile
from pathlib import Path

# Seconds for one file.
LONGEST = 60

# modelaudit asks the network where it may.
os.environ.update(NO_ANALYTICS="1", PROMPTFOO_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1")
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)


def picklescan(path):
    from picklescan.scanner import SafetyLevel, scan_file_path

    result = scan_file_path(str(path))
    why = sorted({f"{g.module}.{g.name}" for g in result.globals if g.safety != SafetyLevel.Innocuous})
    if result.issues_count:
        return "dangerous", why
    if any(g.safety == SafetyLevel.Suspicious for g in result.globals):
        return "suspicious", why
    return "no answer" if result.scan_err else "clean", why


def fickling(path):
    from fickling.analysis import Severity
    from fickling.loader import scan_file, scan_zip_archive

    # As its command line does: archives by their members, everything else as pickles.
    if zipfile.is_zipfile(path):
        results = list(scan_zip_archive(str(path), graceful=True).values())
    else:
        results = [scan_file(str(path), graceful=True)]
    found = [finding for result in results for finding in result.results]
    worst = max((finding.severity for finding in found), default=Severity.LIKELY_SAFE)
    why = sorted({name for finding in found for name in finding.detailed_results().get("AnalysisResult", {})})
    if worst >= Severity.LIKELY_UNSAFE:
        return "dangerous", why
    if worst > Severity.LIKELY_SAFE:
        return "suspicious", why
    return "no answer" if any(result.errors for result in results) or not results else "clean", why


def modelscan(path):
    from modelscan.modelscan import ModelScan

    result = ModelScan().scan(str(path))
    why = sorted({issue["description"] for issue in result["issues"]})
    if any(issue["severity"] in ("CRITICAL", "HIGH") for issue in result["issues"]):
        return "dangerous", why
    if result["issues"]:
        return "suspicious", why
    return "clean" if result["summary"]["scanned"]["total_scanned"] and not result["errors"] else "no answer", why


def modelaudit(path):
    from modelaudit.core import scan_model_directory_or_file

    result = scan_model_directory_or_file(str(path), cache_enabled=False)
    told = {issue.severity.value for issue in result.issues}
    why = sorted({f"{issue.rule_code}: {issue.message}"[:160] for issue in result.issues if issue.severity.value in ("critical", "warning")})
    if "critical" in told:
        return "dangerous", why
    if "warning" in told:
        return "suspicious", why
    return "clean" if result.success and result.files_scanned else "no answer", why


SCANNERS = {"picklescan": picklescan, "fickling": fickling, "modelscan": modelscan, "modelaudit": modelaudit}


def out_of_time(*_):
    raise TimeoutError


def asked(scanner, path):
    """What it says, or that it gave no answer, and why."""
    signal.alarm(LONGEST)
    try:
        return SCANNERS[scanner](path)
    except Exception as error:
        return "no answer", [type(error).__name__]
    finally:
        signal.alarm(0)


def main():
    folder, scanners = Path(sys.argv[1]), sys.argv[2:] or ["picklescan", "fickling"]
    if keep := os.environ.get("CKPT_KEEP"):
        shutil.copytree(folder, keep, dirs_exist_ok=True)
    signal.signal(signal.SIGALRM, out_of_time)
    verdicts, reasons = {}, {}
    # They print as they go.
    with contextlib.redirect_stdout(sys.stderr):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            told = {scanner: asked(scanner, path) for scanner in scanners}
            name = str(path.relative_to(folder))
            verdicts[name] = {scanner: verdict for scanner, (verdict, _) in told.items()}
            reasons[name] = {scanner: why for scanner, (_, why) in told.items()}
    versions = {scanner: importlib.metadata.version(scanner) for scanner in scanners}
    json.dump({"versions": versions, "verdicts": verdicts, "reasons": reasons}, sys.stdout)


if __name__ == "__main__":
    main()
