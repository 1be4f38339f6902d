"""Random and mutated pickle programs, read by CPython's unpicklers and by ckpt.

    pickle_programs.py CKPT [PROGRAMS [SEED]]

Nothing that a program names is imported or called: `find_class` gives inert stand-ins that record what happens to them.
What either unpickler of CPython imports before it stops is the truth. A disagreement is a program that imports, or calls
what it computes, and that ckpt calls clean; each is printed with its bytes, and the exit code is 1 if there is any. What
Python reads to its end without anything suspicious and ckpt suspects all the same is counted by rule.
"""

import _pickle
import codecs
import functools
import io
import os
import pickle
import resource
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

sys.dont_write_bytecode = True

from answers import answers, severity, shared_memory, suspected
from pickle_maker import DANGEROUS, HARMLESS, programs

warnings.simplefilter("ignore")

KNOWN_HARMLESS = set(HARMLESS)
HARMLESS_MODULES = {module for module, _ in HARMLESS}


class Recorder:
    """What one program did under one reader."""

    def __init__(self):
        self.imports = []
        self.computed = 0
        self.changed = 0
        self.finished = False
        self.error = None


NOW = Recorder()
DEEP = 0
ENCODING = "ASCII"


def nested(data):
    """`torch.load` of bytes, which are a legacy file or a pickle."""
    global DEEP
    if not isinstance(data, (bytes, bytearray)) or DEEP > 2:
        return
    DEEP += 1
    try:
        reading(io.BytesIO(bytes(data)), C, ENCODING, None)
    except Exception:
        pass
    finally:
        DEEP -= 1


class Inert:
    """An instance of whatever a program names: it takes everything that opcodes put into it."""

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        NOW.computed += 1
        return Inert()

    def append(self, item):
        pass

    def extend(self, items):
        list(items)

    def add(self, item):
        pass

    def update(self, *args, **kwargs):
        pass

    def __setitem__(self, key, value):
        pass


class Stateful(Inert):
    def __setstate__(self, state):
        pass


class Meta(type):
    """Classes whose attributes BUILD may set, which is recorded."""

    def __setattr__(cls, name, value):
        NOW.changed += 1


@functools.lru_cache(maxsize=10_000)
def stand_in(module, name):
    """The same kind of thing for the same name: a class with or without a state, or a function."""
    real = REAL.get((module, name))
    if real is not None:
        return real
    kind = sum(map(ord, module + name)) % 5
    if kind == 4:
        return lambda *args, **kwargs: Inert()
    base = Stateful if kind else Inert

    def new(cls, *args, **kwargs):
        return object.__new__(cls)

    return Meta("Named", (base,), {"__new__": new})


def small(number):
    return not isinstance(number, int) or abs(number) < 1 << 16


def make_bytes(kind):
    def make(*args):
        if args and not small(args[0]):
            raise MemoryError
        return kind(*args)
    return make


def encode(text, encoding="utf-8", errors="strict"):
    if not isinstance(text, str) or encoding not in ("latin1", "ascii", "utf-8", "latin-1"):
        raise TypeError
    return codecs.encode(text, encoding, errors)


def load_from_bytes(data):
    nested(data)
    return Inert()


class Bytes(bytes):
    def __new__(cls, *args):
        return make_bytes(bytes)(*args)


class ByteArray(bytearray):
    pass


REAL = {
    ("builtins", "set"): set, ("builtins", "bytearray"): ByteArray, ("__builtin__", "list"): list,
    ("builtins", "bytes"): Bytes, ("builtins", "dict"): dict, ("_codecs", "encode"): encode,
    ("torch.storage", "_load_from_bytes"): load_from_bytes,
}


def unpickler(base):
    class Inspecting(base):
        def find_class(self, module, name):
            NOW.imports.append((module, name))
            return stand_in(module, name)

        def persistent_load(self, pid):
            return Inert()

        def get_extension(self, code):
            NOW.imports.append(("copyreg", f"_inverted_registry[{code}]"))
            return Inert()

    return Inspecting


C, PYTHON = unpickler(_pickle.Unpickler), unpickler(pickle._Unpickler)


def reading(file, kind, encoding, buffers):
    reader = kind(file, encoding=encoding, buffers=buffers)
    reader.load()
    return reader


def registered():
    """Extension codes lead to names; those of small numbers are given some, so that programs go on."""
    import copyreg
    for code in (1, 2, 255, 256, 65535, 65536):
        copyreg._inverted_registry[code] = ("copyreg", f"_inverted_registry[{code}]")


def readings(program, encoding):
    """What the readers of CPython make of it: C's from memory, from a buffered file, and with one unpickler for as many
    pickles as there are; and Python's."""
    global NOW, ENCODING
    ENCODING = encoding
    found = []
    for name, kind in (("c", C), ("c-file", C), ("c-again", C), ("python", PYTHON)):
        NOW = record = Recorder()
        record.name = name
        file = io.BytesIO(program)
        if name in ("c-file", "c-again"):
            file = io.BufferedReader(file, len(program) + 1)
        try:
            reader = reading(file, kind, encoding, [b"buffer", bytearray(b"another")] if len(program) % 2 else None)
            record.finished = True
            if name == "c-again":
                for _ in range(4):
                    reader.load()
        except Exception as error:
            record.error = type(error).__name__
        found.append(record)
    return found


EXTENSIONS = ["pkl", "pkl", "pkl", "pickle", "bin", "ckpt", "dat", "joblib"]


def spelt(module, name):
    return f"{module}.{name}"


def judge(program, records, answer, tally):
    """Why the answer is a miss, if it is one."""
    # A mutated name may be that of another harmless thing in a module that holds such.
    known = set(answer["harmless"]) if answer else set()
    def harmless(pair):
        module, name = pair
        kind = module in HARMLESS_MODULES or module.startswith("torch.nn.modules.")
        return pair in KNOWN_HARMLESS or kind and spelt(module, name) in known

    suspect = [(record.name, pair) for record in records for pair in record.imports if not harmless(pair)]
    computed = [record.name for record in records if record.computed or record.changed]
    if answer is None:
        return ("no answer", "no answer") if suspect or computed else None
    by = lambda names: " and ".join(sorted(set(names)))
    if not suspected(answer):
        if suspect:
            return f"imports {spelt(*suspect[0][1])!r}", "imports, read by " + by(name for name, _ in suspect)
        if computed:
            return "calls or changes what it computes", "computes, read by " + by(computed)
    listed = {finding["global"] for finding in answer["findings"]} | set(answer["harmless"])
    names = {spelt(*pair) for record in records for pair in record.imports}
    plain = {name for name in names if name.isascii() and name.isprintable() and len(name) < 160}
    if suspected(answer):
        # Refused, though for another reason.
        unlisted = plain - listed
        if unlisted:
            tally["unlisted in a refused file"] += 1
            tally.setdefault("examples", []).append((program, sorted(unlisted)[0]))
        if severity(answer) != "dangerous" and any(pair in DANGEROUS for _, pair in suspect):
            tally["dangerous import in a file that is only unknown"] += 1
    elif plain - listed:
        missing = sorted(plain - listed)[0]
        return f"does not list {missing!r}", "not listed, read by " + by(
            record.name for record in records if missing in {spelt(*pair) for pair in record.imports}
        )
    finished = [record for record in records if record.finished]
    if suspected(answer) and len(finished) == len(records) and not suspect and not computed:
        rules = {f["rule"] for f in answer["findings"] if f["severity"] != "note"}
        tally["suspected, though every reader finishes and nothing is suspect"] += 1
        for rule in rules:
            tally["  by " + rule] += 1
    return None


def main():
    # A length that lies is not worth much memory.
    resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
    ckpt = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    keep = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    registered()
    made = programs(seed)
    tally = Counter()
    misses = []
    done = 0
    while done < count:
        with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
            batch = {}
            for number in range(min(4000, count - done)):
                program, encoding = next(made)
                name = f"{number}.{EXTENSIONS[number % len(EXTENSIONS)]}"
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(program)
                batch[name] = (program, encoding)
            told = answers(ckpt, folder)
            for name, (program, encoding) in batch.items():
                if not program:
                    continue
                records = readings(program, encoding)
                tally["finished"] += all(record.finished for record in records)
                tally["readers differ"] += len({tuple(record.imports) for record in records}) > 1
                tally["imports"] += bool(records[0].imports)
                why = judge(program, records, told.get(name), tally)
                if why:
                    misses.append((why, encoding, program))
                    if keep:
                        (keep / f"miss-{seed}-{len(misses)}-{name}").write_bytes(program)
        done += len(batch)
    examples = tally.pop("examples", [])
    shortest = {}
    for miss in sorted(misses, key=lambda miss: len(miss[2])):
        shortest.setdefault(miss[0][1], []).append(miss)
    for kind, those in shortest.items():
        print(f"{len(those)} {kind}")
        for (why, _), encoding, program in those[:8]:
            print(f"  {why}, {encoding}: {program!r}")
    print(f"{done} programs, {len(misses)} misses")
    for what, number in sorted(tally.items()):
        print(f"{number:8} {what}")
    if os.environ.get("EXAMPLES"):
        for program, name in sorted(examples, key=lambda e: len(e[0]))[:40]:
            print(name, program)
    sys.exit(1 if misses else 0)


if __name__ == "__main__":
    main()
