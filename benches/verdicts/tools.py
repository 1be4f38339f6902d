"""What each program says of a checkpoint.

ckpt runs as a program. The two Python tools run as their commands do, in a process that has already imported them, since
importing PyTorch takes longer than what they do with a small file. What they print as errors and as warnings is kept
apart, so that a reader can take either for a refusal."""

import contextlib
import io
import json
import multiprocessing
import os
import subprocess
import sys

LIMIT = 300
PASSED, WARNED, REFUSED, UNREAD = "passed", "warned", "refused", "unread"
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".jit", ".gguf", ".tar")


class Ckpt:
    """`ckpt gate`, without its cache and with its defaults."""

    name = "ckpt"

    def __init__(self, program):
        self.program = program

    def judge(self, path):
        """Its answer, and why."""
        command = [self.program, "gate", "--no-cache", "--color", "never", str(path)]
        out = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LIMIT, cwd=os.path.dirname(path))
        text = (out.stdout + out.stderr).replace(str(path), path.name)
        if out.returncode not in (0, 1, 3):
            return UNREAD, f"exit code {out.returncode}: {text}"
        # A damaged file is found to be damaged, which is a finding; it is no excuse for a file that is whole.
        return (PASSED if out.returncode == 0 else REFUSED), text


class Imported:
    """A tool that runs in a process forked from this one."""

    def judge(self, path):
        """The worst of its answers on the checkpoint's files."""
        answers = [self._apart(file) for file in self.files(path)]
        order = [PASSED, WARNED, REFUSED]
        read = [a for a in answers if a[0] != UNREAD]
        if len(read) < len(answers) or not answers:
            worst = max(read, key=lambda a: order.index(a[0]), default=None)
            if worst and worst[0] == REFUSED:
                return worst
            return UNREAD, "; ".join(a[1] for a in answers if a[0] == UNREAD)
        return max(answers, key=lambda a: order.index(a[0]))

    def files(self, path):
        """The files to give it: of a folder, each that may hold weights."""
        if path.is_file():
            return [path]
        return sorted(p for p in path.iterdir() if p.suffix in WEIGHTS)

    def _apart(self, file):
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)

        def work():
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            try:
                theirs.send(self.look(file))
            except BaseException as error:
                theirs.send((UNREAD, f"{type(error).__name__}: {error}"[:300]))

        process = context.Process(target=work)
        process.start()
        theirs.close()
        try:
            answer = ours.recv() if ours.poll(LIMIT) else (UNREAD, f"no answer in {LIMIT} s")
        except EOFError:
            answer = (UNREAD, "the process ended without an answer")
        process.kill()
        process.join()
        return answer


class Weightlens(Imported):
    """`lens analyze`. It prints a table, of which the contents are taken."""

    name = "weightlens"

    def files(self, path):
        """An index where there is one, as it reads shards by their index."""
        index = path / "model.safetensors.index.json"
        return [index] if path.is_dir() and index.exists() else super().files(path)

    def look(self, file):
        """What it flags in one file."""
        from rich.console import Console
        from weightlens import cli

        results = []
        report = cli._report_result
        cli._report_result = lambda result, *args, **kwargs: results.append(result) or report(result, *args, **kwargs)
        text = io.StringIO()
        code = cli.run_cli(["analyze", str(file)], console=Console(file=text, width=200))
        if code or not results:
            return UNREAD, text.getvalue()[-300:]
        result = results[0]
        flags = [(flag.severity, f"{flag.layer}: {flag.rule}") for flag in result.diagnostics]
        flags += [("error", flag) for flag in result.health.corruption_flags]
        if any(severity == "error" for severity, _ in flags):
            return REFUSED, ", ".join(text for severity, text in flags if severity == "error")
        return (WARNED if flags else PASSED), ", ".join(text for _, text in flags)


class ModelClinic(Imported):
    """`model-clinic exam --json`. Errors are what it calls unhealthy; warnings are kept apart, as it does."""

    name = "model-clinic"

    def look(self, file):
        """Its findings on one file."""
        from model_clinic.cli import main

        sys.argv = ["model-clinic", "exam", str(file), "--json", "--quiet"]
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            main()
        printed = text.getvalue()
        findings = json.loads(printed[printed.index("{\n") :])["findings"]
        by = {level: [f"{f['param']}: {f['condition']}" for f in findings if f["severity"] == level] for level in ("ERROR", "WARN")}
        if by["ERROR"]:
            return REFUSED, ", ".join(by["ERROR"][:5])
        return (WARNED if by["WARN"] else PASSED), ", ".join(by["WARN"][:5])
