"""Random pickles with joblib's arrays between the opcodes, read by joblib, by pickle and by ckpt.

    joblib_arrays.py CKPT [FILES [SEED [FOLDER]]]

joblib's unpickler gets its own wrapper and NumPy's types, and inert stand-ins for everything else; nothing else is
imported or called. A disagreement is a file of which a reader imports `posix.system`, and which ckpt calls clean; it is
printed, and kept in FOLDER if that is given. The exit code is 1 if there is any.
"""

import io
import pickle
import random
import resource
import struct
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

sys.dont_write_bytecode = True

from answers import answers, shared_memory, suspected

warnings.simplefilter("ignore")

import numpy
from joblib import numpy_pickle

REAL = {
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): numpy_pickle.NumpyArrayWrapper,
    ("numpy", "dtype"): numpy.dtype,
    ("numpy", "ndarray"): numpy.ndarray,
}


class Inert:
    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


class Found:
    names = []


def stand_in(module, name):
    Found.names.append((module, name))
    return REAL.get((module, name), Inert)


class Plain(pickle.Unpickler):
    def find_class(self, module, name):
        return stand_in(module, name)


class Joblib(numpy_pickle.NumpyUnpickler):
    def find_class(self, module, name):
        return stand_in(module, name)


class Pickle:
    """What joblib has for the module `pickle`."""

    @staticmethod
    def load(file, **kwargs):
        return Plain(file).load()


numpy_pickle.pickle = Pickle

CODES = [
    "u1", "i4", "<f4", ">f8", "|b1", "c8", "S3", "U2", "V5", "O", "|O", "?", "f2", "uint8", "int64", "float32", "bool", "M8[s]", "m8",
    "datetime64", "i08", "U03", "(2,)u1", "2u1", "u1,u1", "str2", "int", "f", "d", "O8", "object",
]


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(rng, value):
    return rng.choice([b"K%c" % value, b"M" + struct.pack("<H", value), b"I%d\n" % value, b"\x8a\x01%c" % value if value < 128 else b"K%c" % value])


def harm(rng, after):
    """Opcodes that import, or bytes that may hide some from a reader that starts elsewhere."""
    kind = rng.randrange(5)
    if kind == 0:
        return b"0cposix\nsystem\nX\x04\0\0\0true\x85R"
    if kind == 1:
        return b"0C%c" % rng.randrange(80)
    if kind == 2:
        return b"N0" * rng.randrange(4)
    if kind == 3:
        return b"."
    return rng.choice([b"\xff", b"N", b"0", b"\0", b"("]) * rng.randrange(1, 40)


def array(rng, depth=0):
    """joblib's description of an array, and bytes that are about as many as it says."""
    code = rng.choice(CODES) if rng.random() < 0.6 else "u1"
    shape = [rng.choice([0, 1, 2, 3, 8, 40]) for _ in range(rng.choice([1, 1, 1, 2, 0]))]
    sizes = b"(" + b"".join(number(rng, size) if rng.random() < 0.96 else rng.choice([b"\x88", b"J\xff\xff\xff\xff", b"N"]) for size in shape) + b"t"
    if rng.random() < 0.05:
        sizes = sizes[:-1] + b"l"
    dtype = b"cnumpy\ndtype\n" + text(code) + rng.choice([b"\x85R", b"\x85R", b"\x89\x88\x87R", b"\x85\x81"])
    if code in ("u1", "i4", "S3") and rng.random() < 0.1:
        dtype += b"(K\x03" + text("|") + b"NNN" + b"J\xff\xff\xff\xffJ\xff\xff\xff\xff" + b"K\0tb"
    padding = rng.choice([0, 3, 15])
    fields = [
        text("subclass") + b"cnumpy\nndarray\n", text("shape") + sizes, text("order") + text(rng.choice("CF")), text("dtype") + dtype,
        text("allow_mmap") + b"\x89",
    ]
    aligned = rng.random() < 0.5
    if aligned:
        value = b"K\x10" if rng.random() < 0.8 else rng.choice([b"N", b"\x88", b"\x89", b"G" + b"\0" * 8, text("x"), b")", b"\x8a\x09" + b"\1" * 9])
        fields.append(text("numpy_array_alignment_bytes") + value)
    if rng.random() < 0.1:
        fields.append(rng.choice(fields))
    if rng.random() < 0.2:
        rng.shuffle(fields)
    if rng.random() < 0.04:
        del fields[rng.randrange(len(fields))]
    state = b"}(" + b"".join(fields) + b"u"
    out = b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n" + rng.choice([b")\x81", b")\x81", b")\x81", b"NN\x86R", b"NNNN(NNNNNt\x81"])
    if rng.random() < 0.1:
        out = rng.choice([b"(ijoblib.numpy_pickle\nNumpyArrayWrapper\n", out])
    if rng.random() < 0.3:
        out += b"q\x63"
    out += state + (rng.choice([b"N\x86b", b"}\x86b"]) if rng.random() < 0.04 else b"b")
    try:
        size = numpy.dtype(code).itemsize * int(numpy.prod(shape))
    except Exception:
        size = 4
    if "O" in code and depth < 2:
        return out + program(rng, depth + 1)
    size += rng.choice([0, 0, 0, 0, 1, -1, size, -size // 2])
    data = (b"%c" % padding + b"\xff" * padding if aligned else b"") + b"\xff" * max(0, size)
    if rng.random() < 0.4:
        # Its elements are opcodes.
        data = harm(rng, 0) + data[: max(0, len(data) - 10)]
    if rng.random() < 0.2:
        return out + data + b"0h\x63" + rng.choice([b"}", state]) + b"b" + data
    return out + data


def program(rng, depth=0):
    out = b"\x80" + bytes([rng.choice([2, 3, 4])]) + (b"(" if rng.random() < 0.3 else b"")
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        out += array(rng, depth)
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            out += harm(rng, 0)
    if rng.random() < 0.3:
        out += b"N" * rng.randrange(120)
    return out + b"N."


def imports(read):
    """Whether `read` imports what it must not."""
    Found.names = []
    try:
        read()
    except Exception:
        pass
    return ("posix", "system") in Found.names


def main():
    ckpt = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    rng = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    keep = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    tally, misses, done = Counter(), [], 0
    while done < count:
        with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
            batch = {f"{number}.{'pkl' if number % 2 else 'joblib'}": program(rng) for number in range(min(4000, count - done))}
            for name, data in batch.items():
                (Path(folder) / name).write_bytes(data)
            told = answers(ckpt, folder)
            for name, data in batch.items():
                by = []
                if imports(lambda: Joblib(name, io.BytesIO(data), False).load()):
                    by.append("joblib")
                if imports(lambda: Plain(io.BytesIO(data)).load()):
                    by.append("pickle")
                tally["imports, read by " + (" and ".join(by) or "none")] += 1
                if by and (name not in told or not suspected(told[name])):
                    misses.append((by, data))
                    if keep:
                        (keep / f"{len(misses)}-{name}").write_bytes(data)
        done += len(batch)
    for by, data in sorted(misses, key=lambda miss: len(miss[1]))[:12]:
        print(f"read by {' and '.join(by)}: {data!r}")
    print(f"{done} files, {len(misses)} misses")
    for what, number in sorted(tally.items()):
        print(f"{number:8} {what}")
    sys.exit(1 if misses else 0)


if __name__ == "__main__":
    main()
