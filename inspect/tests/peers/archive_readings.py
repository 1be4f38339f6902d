"""Mutated zips, tars, .npy files and PyTorch's legacy ones, read by torch, zipfile, tarfile and NumPy, and by ckpt.

    archive_readings.py CKPT [FILES [SEED [FOLDER]]]

Nothing is unpickled but by an inert recorder: what it is asked to import is the truth, and no stand-in does anything. A
disagreement is a file of which some reader hands a pickle that imports `posix.system` to its unpickler, and which ckpt
calls clean; each is described, and kept in FOLDER if that is given. The exit code is 1 if there is any.
"""

import binascii
import io
import os
import pickle
import random
import re
import resource
import struct
import sys
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path

sys.dont_write_bytecode = True

from answers import answers, severity, shared_memory, suspected

warnings.simplefilter("ignore")

import numpy
import torch
from numpy.lib import _format_impl as npy

EVIL = [
    b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.",
    b"cposix\nsystem\n(S'true'\ntR.",
    b"(S'true'\niposix\nsystem\n.",
    b"\x80\x04\x95\x1b\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
]
PLAIN = [b"\x80\x02}.", b"(dp0\n.", b"\x80\x02N."]


KINDS = os.environ.get("KINDS", "zip zip zip tar npy legacy both").split()


class Seen(Exception):
    pass


class Inert(pickle.Unpickler):
    """Records what a reader's unpickler would import, and goes no further than the first that is evil."""

    found = []

    def find_class(self, module, name):
        Inert.found.append((module, name))
        if (module, name) == ("posix", "system"):
            raise Seen
        return lambda *args, **kwargs: None

    def persistent_load(self, pid):
        return None


class Pickle:
    """What stands for the module `pickle`."""

    __name__ = "pickle"
    Unpickler = Inert
    UnpicklingError = pickle.UnpicklingError
    HIGHEST_PROTOCOL = pickle.HIGHEST_PROTOCOL

    @staticmethod
    def load(file, **kwargs):
        return Inert(file, **kwargs).load()

    @staticmethod
    def loads(data, **kwargs):
        return Inert(io.BytesIO(data), **kwargs).load()


def disarmed():
    """Nothing that a reader does by itself may run, link or make devices either."""
    npy.pickle = Pickle
    torch.jit.load = refuse
    tarfile.TarFile.makedev = refuse
    tarfile.TarFile.makefifo = refuse
    torch.serialization._check_container_source = refuse


def refuse(*args, **kwargs):
    raise RuntimeError


def by_torch(path):
    torch.load(path, pickle_module=Pickle, weights_only=False, map_location="cpu")


def by_torch_records(path):
    reader = torch._C.PyTorchFileReader(path)
    Pickle.loads(bytes(reader.get_record("data.pkl")))


def by_zipfile(path):
    archive = zipfile.ZipFile(path)
    for entry in archive.infolist():
        if entry.filename.lower().endswith((".pkl", ".npy")) and entry.file_size < 1 << 20:
            try:
                data = archive.read(entry)
            except Exception:
                continue
            if data[:6] != npy.MAGIC_PREFIX:
                attempt(Pickle.loads, data)


def by_numpy(path):
    array = numpy.load(path, allow_pickle=True)
    for name in getattr(array, "files", []):
        attempt(array.__getitem__, name)


def by_tarfile(path):
    with tarfile.open(path) as archive:
        for entry in archive:
            if entry.isfile() and entry.size < 1 << 20 and entry.name.endswith((".pkl", "pickle", "storages", "tensors")):
                attempt(Pickle.load, archive.extractfile(entry))


READERS = {
    "zip": [by_torch, by_torch_records, by_zipfile, by_numpy],
    "tar": [by_torch, by_tarfile],
    "npy": [by_numpy],
    "legacy": [by_torch],
    "both": [by_torch],
}


def attempt(read, what):
    """Whether `read` gets to see something evil."""
    before = len(Inert.found)
    try:
        read(what)
    except (Exception, SystemError):
        pass
    return ("posix", "system") in Inert.found[before:]


# --- zips, field by field ---


class Fields:
    """Values of header fields, each of which may be another one."""

    def __init__(self, rng, rate):
        self.rng = rng
        self.rate = rate

    def of(self, value, width):
        if self.rng.random() < self.rate:
            most = (1 << 8 * width) - 1
            value = self.rng.choice(
                [0, 1, value + 1, value - 1, value ^ 1, value ^ 8, value * 2, most, most - 1, self.rng.getrandbits(8 * width),
                 self.rng.randrange(400)]
            )
        return (value & (1 << 8 * width) - 1).to_bytes(width, "little")


def local_header(fields, name, data, packed, method, flags, extra):
    f, crc = fields.of, binascii.crc32(data)
    sizes = (0, 0, 0) if flags & 8 else (crc, len(packed), len(data))
    return (
        f(0x04034B50, 4) + f(20, 2) + f(flags, 2) + f(method, 2) + f(0, 4) + f(sizes[0], 4) + f(sizes[1], 4) + f(sizes[2], 4)
        + f(len(name), 2) + f(len(extra), 2) + name + extra
    )


def central_header(fields, name, data, packed, method, flags, offset, extra, wide):
    f = fields.of
    sizes = [len(data), len(packed), offset]
    if wide:
        extra = struct.pack("<HH", 1, 24) + b"".join(f(size, 8) for size in sizes) + extra
        sizes = [0xFFFFFFFF] * 3
    return (
        f(0x02014B50, 4) + f(20, 2) + f(20, 2) + f(flags, 2) + f(method, 2) + f(0, 4) + f(binascii.crc32(data), 4)
        + f(sizes[1], 4) + f(sizes[0], 4) + f(len(name), 2) + f(len(extra), 2) + f(0, 2) + f(0, 2) + f(0, 2) + f(0, 4)
        + f(sizes[2], 4) + name + extra
    )


def directory(rng, fields, entries, base, out, wide):
    """Appends the directory of `entries` and its end to `out`; the parts may be in odd places."""
    start = len(out)
    order = list(entries)
    if rng.random() < 0.1:
        rng.shuffle(order)
    for entry in order:
        out += central_header(fields, *entry)
    size = len(out) - start
    count = len(order)
    if rng.random() < 0.1:
        count = max(0, count + rng.choice([-2, -1, -1, 1]))
    if wide:
        record = len(out)
        f = fields.of
        out += (
            f(0x06064B50, 4) + f(44, 8) + f(45, 2) + f(45, 2) + f(0, 4) + f(0, 4) + f(count, 8) + f(count, 8) + f(size, 8)
            + f(start - base, 8)
        )
        return ("wide", record - base, count, size, start - base)
    return ("plain", None, count, size, start - base)


def end(rng, fields, out, kind, record, count, size, start, comment):
    f = fields.of
    if kind == "wide":
        out += f(0x07064B50, 4) + f(0, 4) + f(record, 8) + f(1, 4)
        if rng.random() < 0.7:
            count, size, start = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
    out += f(0x06054B50, 4) + f(0, 2) + f(0, 2) + f(count, 2) + f(count, 2) + f(size, 4) + f(start, 4) + f(len(comment), 2)
    out += comment


def array(objects, data):
    descr = "'|O'" if objects else "'|u1'"
    count = 1 if objects else len(data)
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': ({count},), }}".encode()
    return npy.MAGIC_PREFIX + b"\1\0" + struct.pack("<H", len(text) + 1) + text + b"\n" + data


def contents(rng, kind, evil):
    if kind == "npz":
        return array(True, rng.choice(EVIL)) if evil else array(False, rng.randbytes(rng.randrange(30)))
    return rng.choice(EVIL if evil else PLAIN)


def some_entries(rng, kind, folder):
    """Names and contents, of which one is evil or is not."""
    if kind == "npz":
        names = ["a.npy", "b.npy", rng.choice(["a", "A.npy", "c.npy", "b.NPY"])]
    else:
        names = [f"{folder}/data.pkl", f"{folder}/version", f"{folder}/data/0"]
        names += [rng.choice([f"{folder}/DATA.PKL", f"{folder}/data.pkl", f"{folder}/byteorder", "x/data.pkl", f"{folder}/extra.pkl", "data.pkl"])]
    names = names[:rng.randrange(1, len(names) + 1)]
    evil = rng.randrange(len(names)) if rng.random() < 0.6 else None
    found = []
    for number, name in enumerate(names):
        if number == evil or name.endswith((".pkl", ".npy", ".PKL", ".NPY", "a")):
            data = contents(rng, kind, number == evil)
        else:
            data = b"3\n" if "version" in name else rng.randbytes(16)
        found.append((name.encode(), data))
    return found


def archive(rng, fields, out, entries):
    """Appends local entries; what the directory says of each."""
    known = []
    for name, data in entries:
        method = rng.choice([0, 0, 0, 8])
        packed = data
        if method == 8:
            deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
            packed = deflate.compress(data) + deflate.flush()
        flags = rng.choice([0, 0, 0, 0x800, 8, 1])
        extra = b"FB\x08\0ZZZZZZZZ" if rng.random() < 0.3 else b""
        other = name
        if rng.random() < 0.04:
            other = rng.choice([name.upper(), b"x" + name[1:], name + b"\0", b"/" + name, name + b"/", b""])
        offset = len(out)
        out += local_header(fields, other, data, packed, method, flags, extra)
        out += packed
        if flags & 8:
            out += b"PK\x07\x08" + struct.pack("<III", binascii.crc32(data), len(packed), len(data))
        known.append((name, data, packed, method, flags, offset, b"", rng.random() < 0.1))
    if rng.random() < 0.12:
        # An entry within the data of another, which only the directory tells.
        kind = "npz" if entries[0][0].endswith(b"npy") else "pt"
        name = b"inner.npy" if kind == "npz" else b"m/inner.pkl"
        data = contents(rng, kind, True)
        before = rng.randbytes(rng.randrange(8))
        inner = before + local_header(fields, name, data, data, 0, 0, b"") + data
        out += local_header(fields, b"m/outer", inner, inner, 0, 0, b"")
        start = len(out)
        out += inner
        known.append((b"m/outer", inner, inner, 0, 0, start - 30 - len(b"m/outer"), b"", False))
        known.append((name, data, data, 0, 0, start + len(before), b"", False))
    return known


def a_zip(rng):
    kind = rng.choice(["npz", "pt", "pt"])
    fields = Fields(rng, rng.choice([0, 0.004, 0.01, 0.03]))
    out = bytearray()
    ends = []
    if rng.random() < 0.06:
        out += rng.choice([b"\0" * 7, rng.choice(PLAIN), b"PK\3\4", rng.randbytes(22), b"\x93NUMPY"])
    base = 0
    count = rng.choice([1, 1, 1, 2, 2, 3])
    carried = []
    for _ in range(count):
        if rng.random() < 0.3:
            base = len(out)
        entries = some_entries(rng, kind, rng.choice(["m", "m", "n"]))
        if rng.random() < 0.08 and carried:
            # An archive or an entry within the data of an entry.
            entries.append((rng.choice([b"m/data/1", b"c.npy", b"z.bin"]), bytes(rng.choice(carried))))
        known = archive(rng, fields, out, entries)
        known = [entry[:5] + (entry[5] - base,) + entry[6:] for entry in known]
        if rng.random() < 0.08 and len(known) > 1:
            del known[rng.randrange(len(known))]
        if rng.random() < 0.08:
            known.append(rng.choice(known))
        if rng.random() < 0.06 and len(known) > 1:
            # Two names of one place.
            one, two = rng.sample(range(len(known)), 2)
            known[one] = (known[one][0],) + known[two][1:]
        ends.append(directory(rng, fields, known, base, out, rng.random() < 0.4))
        if rng.random() < 0.5:
            end(rng, fields, out, *rng.choice(ends), b"" if rng.random() < 0.8 else rng.randbytes(rng.randrange(30)))
        carried.append(bytes(out[base:]))
    comment = b""
    if rng.random() < 0.15:
        comment = rng.choice([rng.randbytes(9), rng.choice(EVIL), rng.choice(carried), b"PK\5\6" + b"\0" * 18])
    end(rng, fields, out, *rng.choice(ends[-2:]), comment)
    if rng.random() < 0.08:
        out += rng.choice([b"\0" * 9, rng.choice(EVIL), rng.choice(carried), b"PK\5\6" + b"\0" * rng.randrange(20)])
    if rng.random() < 0.1:
        flip(rng, out)
    return bytes(out), rng.choice(["npz", "npz", "zip"] if kind == "npz" else ["pt", "pt", "bin", "ckpt", "zip"])


def flip(rng, out):
    for _ in range(rng.choice([1, 1, 2, 4])):
        if out:
            at = rng.randrange(len(out))
            kind = rng.randrange(4)
            if kind == 0:
                out[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                out[at] = rng.randrange(256)
            elif kind == 2:
                del out[at:at + rng.choice([1, 2, 4, 30])]
            else:
                out[at:at] = rng.choice([b"\0", b"PK\1\2", b"PK\5\6", b"PK\3\4", bytes(out[at:at + 40])])


# --- tars ---


def tar_number(rng, value, width):
    kind = rng.random()
    if kind < 0.8:
        return b"%0*o\0" % (width - 1, value)
    if kind < 0.85:
        return (b"%o " % value).ljust(width, b"\0")
    if kind < 0.9:
        return (b" %o" % value).ljust(width, b" ")
    if kind < 0.95:
        return b"\x80" + value.to_bytes(width - 1, "big")
    return rng.choice([b"\xff" * width, b"\x80" + b"\xff" * (width - 1), b"0x10".ljust(width, b"\0"), b"\0" * width, b"-1".ljust(width, b"\0")])


def tar_header(rng, name, size, kind, link=b"", rate=0.0):
    form = rng.choice(["ustar", "ustar", "gnu", "v7"])
    magic = {"ustar": b"ustar\x0000", "gnu": b"ustar  \0", "v7": b"\0" * 8}[form]
    prefix = b""
    if form == "ustar" and b"/" in name and rng.random() < 0.3:
        prefix, name = name.split(b"/", 1)
    size_field = tar_number(rng, size, 12) if rng.random() < rate * 5 else b"%011o\0" % size
    header = bytearray(
        name[:100].ljust(100, b"\0") + b"0000644\0" + b"0000000\0" + b"0000000\0" + size_field + b"00000000000\0" + b" " * 8 + kind
        + link[:100].ljust(100, b"\0") + magic + b"".ljust(32, b"\0") + b"".ljust(32, b"\0") + b"0000000\0" * 2 + prefix.ljust(155, b"\0")
    ).ljust(512, b"\0")
    if rng.random() < rate:
        header[rng.randrange(512)] = rng.randrange(256)
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    if rng.random() < rate / 2:
        # As signed bytes, which some readers take, too.
        total = sum(b - 256 if b > 127 else b for b in header[:148] + header[156:]) + 8 * 32
    header[148:156] = rng.choice([b"%06o\0 ", b"%06o \0", b"%07o\0", b"%06o\0 "]) % (total & 0o7777777)
    return bytes(header)


def tar_entry(rng, out, name, data, rate):
    kind = b"0"
    if rng.random() < rate * 5:
        kind = rng.choice([b"\0", b"7", b"1", b"2", b"5", b"S", b"V", b"M", b"N", b"A", b"Z", b"x", b"g", b"L", b"K", b"D", b"X"])
    size = len(data)
    if rng.random() < rate * 3:
        size = rng.choice([0, size + 1, size + 512, 1 << 33, size // 2])
    if rng.random() < 0.1:
        # The name in a header before.
        path = rng.choice([name, b"other", name + b"\0x", b"./" + name, b""])
        if rng.random() < 0.5:
            records = pax(rng, b"path", path)
            if rng.random() < 0.1:
                records = pax(rng, b"comment", b"a\n" + pax(rng, b"path", b"b")) + records
            for _ in range(rng.choice([0, 0, 0, 1, 2])):
                form = rng.choice([b"%d", b"%d", b"%d", b" %d", b"%d ", b"0%d", b"+%d", b"0_%d", b"-%d", b"%d.0"])
                records += pax(rng, b"size", form % rng.choice([len(data), 0, 5, 512, 1 << 20]))
            if rng.random() < 0.1:
                records += pax(rng, rng.choice([b"GNU.sparse.major", b"GNU.sparse.name", b"GNU.sparse.size", b"linkpath", b"hdrcharset"]), rng.choice([b"1", b"storages", b"BINARY"]))
            out += tar_header(rng, b"PaxHeaders/x", len(records), rng.choice([b"x", b"x", b"g", b"X"]), rate=0) + padded(records)
        else:
            long = path + b"\0"
            out += tar_header(rng, b"././@LongLink", len(long), rng.choice([b"L", b"L", b"K"]), rate=0) + padded(long)
        name = rng.choice([name, b"short"])
    out += tar_header(rng, name, size, kind, rng.choice([b"", b"pickle", b"/etc/hostname"]), rate)
    out += padded(data)


def pax(rng, key, value):
    body = b" " + key + b"=" + value + b"\n"
    size = len(body) + 1
    while len(b"%d" % size) + len(body) != size:
        size += 1
    if rng.random() < 0.05:
        size += rng.choice([-1, 1, 100])
    return b"%d" % size + body


def padded(data):
    return data + b"\0" * (-len(data) % 512)


def a_tar(rng):
    rate = rng.choice([0, 0.01, 0.03, 0.1])
    out = bytearray()
    number = lambda n: rng.choice([b"\x80\x02K%c." % n, b"I%d\n." % n])
    files = [
        (b"sys_info", b"\x80\x02}."), (b"pickle", rng.choice(PLAIN)), (b"storages", number(0) + rng.choice([b"\x80\x02].", b"(l."])),
        (b"tensors", number(0)),
    ]
    if rng.random() < 0.7:
        at = rng.randrange(4)
        name, data = files[at]
        files[at] = (name, rng.choice([rng.choice(EVIL), data + rng.choice(EVIL), number(1) + rng.choice(EVIL)]))
    if rng.random() < 0.3:
        files.insert(rng.randrange(5), rng.choice(files[:4]))
    if rng.random() < 0.2:
        name, data = rng.choice(files)
        files.append((name, rng.choice(EVIL)))
    if rng.random() < 0.2:
        rng.shuffle(files)
    for name, data in files:
        if rng.random() < 0.05:
            name = rng.choice([b"./" + name, name + b"/", name.upper(), b"/" + name, b"d/../" + name, name + b" "])
        tar_entry(rng, out, name, data, rate)
        if rng.random() < 0.03:
            out += b"\0" * rng.choice([512, 1024])
    if rng.random() < 0.2:
        # An archive in the data of a member, or behind as much of it as some header says.
        hidden, first = bytes(out), rng.choice([0, 512])
        out = bytearray(tar_header(rng, b"readme", 2, b"0") + padded(b"hi"))
        if first:
            size = pax(rng, b"size", rng.choice([b"512", b"512", b" 512", b"5_12", b"0512"]))
            if rng.random() < 0.3:
                size = rng.choice([pax(rng, b"comment", b"a\nb") + size, pax(rng, b"size", b"%d" % (512 + len(hidden))) + size])
            out += tar_header(rng, b"PaxHeaders/x", len(size), rng.choice([b"x", b"x", b"g", b"X"])) + padded(size)
        out += tar_header(rng, b"d", first + len(hidden), rng.choice([b"0", b"5", b"1", b"6", b"\0", b"Z"])) + b"\1" * first + hidden
    out += b"\0" * rng.choice([0, 512, 1024, 10240])
    if rng.random() < 0.05:
        out += rng.choice(EVIL)
    if rng.random() < 0.05:
        flip(rng, out)
    return bytes(out), rng.choice(["tar", "pt", "bin", "pth"])


# --- .npy ---


def a_npy(rng):
    objects = rng.random() < 0.8
    descr = rng.choice(
        ["'|O'", "'O'", "'O8'", "'=O'", "'<O'", "'object'", "'\\x4f'", "'\\117'", "'|' 'O'", "u'|O'", "'''|O'''", "'\\N{LATIN CAPITAL LETTER O}'", "r'|O'",
         "[('a', '|O')]", "[('a', '<f4'), ('b', 'O')]", "[('', [('x', '|O')])]", "('O', (1,))", "('<f8', (2,))", "['|O']", "[('a', '\\u004f')]",
         "[(('t', 'a'), '|O')]", "[('a', '|O', (1,))]", "'O4'", "'|O8,i4'", "'i4,O'", "'f4, object'", "{'names': ['a'], 'formats': ['O']}", "b'|O'", "'|object_'", "'OO'"]
        if objects else ["'<f4'", "'|u1'", "'<U3'", "[('a', '<f4')]", "'<M8[s]'", "'V4'"]
    )
    shape = rng.choice(["(1,)", "()", "(1, 1)", "(0x1,)", "(1,0)", "(1L,)", "(1_0,)", "(True,)", "(-1,)", "(1, )", "( 1 , )"])
    keys = [("'descr'", descr), ("'fortran_order'", rng.choice(["False", "True"])), ("'shape'", shape)]
    if rng.random() < 0.3:
        rng.shuffle(keys)
    if rng.random() < 0.1:
        keys.insert(rng.randrange(3), ("'descr'", rng.choice(["'<f4'", "'|O'"])))
    keys = [(rng.choice([key, key.replace("'", '"'), "u" + key, key[:3] + "' '" + key[3:]]) if rng.random() < 0.1 else key, value) for key, value in keys]
    gap = rng.choice([" ", " ", "", "\n", "\t", " # comment 'descr': '<f4'\n", "\\\n", "\f"]) if rng.random() < 0.2 else " "
    text = "{" + ("," + gap).join(f"{key}:{gap}{value}" for key, value in keys) + rng.choice([", }", "}", ",}", "} ", "}\n#x"])
    text = rng.choice([text] * 8 + [f"({text})", " " + text, "\n" + text, text + " # x"])
    version = rng.choice([(1, 0), (1, 0), (2, 0), (3, 0), (1, 1), (4, 0)])
    data = text.encode("utf-8" if version[0] == 3 else "latin1", "replace")
    if rng.random() < 0.7:
        data = data.ljust(rng.choice([53, 117, 118, 500])) + b"\n"
    size = len(data) + (rng.choice([-1, 1, 5]) if rng.random() < 0.04 else 0)
    width = "<H" if version[0] == 1 else "<I"
    out = bytearray(npy.MAGIC_PREFIX + bytes(version) + struct.pack(width, size & 0xFFFF) + data)
    out += rng.choice(EVIL) if rng.random() < 0.9 else rng.choice(PLAIN)
    if rng.random() < 0.1:
        flip(rng, out)
    result, extension = bytes(out), rng.choice(["npy", "npy", "pkl", "bin"])
    return result, extension


def in_npz(rng, data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice([0, 8])) as file:
        file.writestr(rng.choice(["a.npy", "arr_0.npy", "0", "x"]), data)
    return out.getvalue()


# --- PyTorch's legacy form: five pickles, and storages ---


def a_legacy(rng):
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) if rng.random() < 0.9 else b"L119547037146038801333356L\n."
    parts = [magic, rng.choice([pickle.dumps(1001, 2), b"I1001\n.", b"M\xe9\x03."])]
    plain = [b"N.", b").", b"}.", b"].", b"\x80\x02}.", b"\x80\x02N.", b"(dp0\n.", b"\x80\x04\x95\2\0\0\0\0\0\0\0].", b"I1\n.", b"K\1."]
    parts.append(rng.choice(plain))
    storage = b"\x80\x02(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\2NtQ."
    used = rng.random() < 0.5
    parts.append(storage if used else rng.choice(plain))
    parts.append(b"\x80\x02]X\1\0\0\x000a." if used else rng.choice([b"\x80\x02].", b"].", b"(l."]))
    if rng.random() < 0.7:
        at = rng.randrange(1, 5)
        parts[at] = rng.choice([rng.choice(EVIL), rng.choice(EVIL), parts[at] + rng.choice(EVIL), rng.choice(EVIL) + parts[at]])
    if rng.random() < 0.1:
        del parts[rng.randrange(1, 5)]
    if rng.random() < 0.1:
        parts.insert(rng.randrange(6), rng.choice([b"\n", b"\0", b".", b"N", rng.choice(plain)]))
    if used:
        parts.append(struct.pack("<q", rng.choice([2, 2, 2, 1, 3, 0])) + rng.randbytes(8))
    if rng.random() < 0.1:
        parts.append(rng.choice(EVIL + [b"\0" * 5, rng.randbytes(5)]))
    out = bytearray(b"".join(parts))
    if rng.random() < 0.15:
        flip(rng, out)
    return bytes(out), rng.choice(["pt", "bin", "pth", "pkl"])


def a_tensor_file(rng):
    """SafeTensors that is a stream of pickles, too: the first byte of its length is SHORT_BINBYTES, which ends before a
    UNICODE in its header, and this with the header's last character."""
    data = b"0" + rng.choice([a_legacy(rng)[0], rng.choice(EVIL), b"N." + rng.choice(EVIL), rng.randbytes(9)])
    start = b'{"__metadata__":{"a":"V'
    end = b'"},"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}\n' % (len(data), len(data))
    length = ord("C") + 256 * (6 + len(start) - 1)
    header = start + b"x" * (length - len(start) - len(end)) + end
    out = bytearray(struct.pack("<Q", length) + header + data)
    if rng.random() < 0.05:
        flip(rng, out)
    return bytes(out), rng.choice(["bin", "pt", "ckpt", "safetensors"])


def made(seed):
    rng = random.Random(seed)
    while True:
        kind = rng.choice(KINDS)
        data, extension = {"zip": a_zip, "tar": a_tar, "npy": a_npy, "legacy": a_legacy, "both": a_tensor_file}[kind](rng)
        if kind == "npy" and rng.random() < 0.3:
            kind, data, extension = "zip", in_npz(rng, data), "npz"
        yield kind, data, extension


def main():
    ckpt = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    keep = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    disarmed()
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))
    files = made(seed)
    tally, misses, done = Counter(), [], 0
    while done < count:
        with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
            batch = {}
            for number in range(min(2000, count - done)):
                kind, data, extension = next(files)
                name = f"{number}.{extension}"
                (Path(folder) / name).write_bytes(data)
                batch[name] = (kind, data)
            told = answers(ckpt, folder)
            for name, (kind, data) in batch.items():
                path = os.path.join(folder, name)
                by = [read.__name__[3:] for read in READERS[kind] if attempt(read, path)]
                Inert.found.clear()
                tally[f"{kind} files"] += 1
                tally[f"{kind} files of which a reader imports"] += bool(by)
                answer = told.get(name)
                if by and (answer is None or not suspected(answer)):
                    misses.append((kind, by, data))
                    if keep:
                        (keep / f"{seed}-{len(misses)}-{name}").write_bytes(data)
                elif by and severity(answer) != "dangerous":
                    tally[f"{kind} files that are only unknown or unreadable"] += 1
        done += len(batch)
    for kind, by, data in sorted(misses, key=lambda miss: len(miss[2]))[:12]:
        shown = re.sub(rb"\0{5,}", lambda zeros: b"<%d zeros>" % len(zeros[0]), data)
        print(f"{kind} read by {' and '.join(by)}: {shown[:1200]!r}")
    print(f"{done} files, {len(misses)} misses")
    for (kind, by), number in Counter((kind, " and ".join(by)) for kind, by, _ in misses).items():
        print(f"{number:8} misses of {kind} read by {by}")
    for what, number in sorted(tally.items()):
        print(f"{number:8} {what}")
    sys.exit(1 if misses else 0)


if __name__ == "__main__":
    main()
