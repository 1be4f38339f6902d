"""Random and mutated pickle programs of all opcodes, most of which run far."""

import random
import struct

# What programs name.
HARMLESS = [
    ("collections", "OrderedDict"), ("collections", "deque"), ("functools", "partial"), ("builtins", "set"), ("builtins", "bytearray"),
    ("__builtin__", "list"), ("__builtin__", "object"), ("builtins", "bytes"), ("builtins", "dict"),
    ("argparse", "Namespace"), ("types", "SimpleNamespace"), ("datetime", "date"), ("numpy", "dtype"),
    ("torch._utils", "_rebuild_tensor_v2"), ("torch", "FloatStorage"), ("torch.nn.modules.linear", "Linear"),
    ("_codecs", "encode"), ("torch.storage", "_load_from_bytes"), ("copyreg", "_reconstructor"),
]
UNKNOWN = [
    ("evil", "run"), ("__main__", "Model"), ("a.b.c", "D.e"), ("mod", "f"), ("evil-pack", "x"), ("lib-dynload", "__name__"),
    ("", ""), ("p\u00e4ck", "\u00fcber"), ("builtins", "print"), ("sklearn.svm._classes", "SVC"), ("e" * 200, "x"),
]
DANGEROUS = [
    ("posix", "system"), ("os", "system"), ("builtins", "eval"), ("__builtin__", "exec"), ("builtins", "getattr"),
    ("subprocess", "Popen"), ("runpy", "_run_code"), ("functools", "partialmethod"), ("operator", "methodcaller"),
    ("torch", "load"), ("builtins", "__import__"), ("pickle", "loads"),
]


class Maker:
    """A program that grows opcode by opcode; what is on its stack is followed, so that most programs run far."""

    def __init__(self, rng, depth=0):
        self.rng = rng
        self.depth = depth
        self.out = bytearray()
        self.stack = []
        self.marks = []
        self.memo = {}

    def chance(self, percent):
        return self.rng.random() * 100 < percent

    # Arguments.

    def line(self, text):
        self.out += text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        self.out += b"\n"

    def number(self, value):
        """A number as text, sometimes in an odd way."""
        text = str(value)
        if self.chance(7):
            odd = self.rng.randrange(12)
            text = [
                f" {text}", f"{text} ", f"+{text}", f"0{text}", f"0x{value & 0xffff:x}", f"{text[:1]}_{text[1:]}",
                f"{text}\0x", f"-{text}", f"{text}\r", f"{text}L", f"\t{text}\x0b", "_" + text,
            ][odd]
        return text

    def name(self):
        kind = self.rng.random()
        names = HARMLESS if kind < 0.45 else UNKNOWN if kind < 0.7 else DANGEROUS
        module, name = self.rng.choice(names)
        if self.chance(2):
            name = name + self.rng.choice([".x", "\r", " ", "\u2028", ".__class__", "\t"])
        return module, name

    # Opcodes, by what they need.

    def push(self, kind, value=None):
        self.stack.append((kind, value))

    def text(self, value):
        """`value` by one of the opcodes for text."""
        rng, out = self.rng, self.out
        data = value.encode("utf-8", "surrogatepass")
        kind = rng.randrange(7)
        if kind == 0 and len(data) < 256:
            out += b"\x8c" + bytes([len(data)]) + data
        elif kind == 1:
            out += b"X" + struct.pack("<I", len(data)) + data
        elif kind == 2:
            out += b"\x8d" + struct.pack("<Q", len(data)) + data
        elif kind == 3 and "\n" not in value:
            text = value
            if self.chance(30) and text:
                at = rng.randrange(len(text))
                text = text[:at] + "\\u%04x" % (ord(text[at]) & 0xffff) + text[at + 1:]
            if self.chance(5) and text:
                at = rng.randrange(len(text))
                text = text[:at] + rng.choice(["\\\\", "\\", "\\U0000006f", "\\x6f", "\\ud800"]) + text[at:]
            self.out += b"V"
            self.line(text.encode("raw-unicode-escape", "replace") if self.chance(50) else text.encode("latin1", "replace"))
        elif kind == 4 and len(data) < 256:
            out += b"U" + bytes([len(data)]) + data
        elif kind == 5:
            out += b"T" + struct.pack("<i", len(data)) + data
        elif kind == 6 and "\n" not in value:
            quote = rng.choice("'\"")
            text = value
            if self.chance(30) and text:
                at = rng.randrange(len(text))
                text = text[:at] + rng.choice(["\\x%02x", "\\%03o", "\\%o"]) % (ord(text[at]) & 0xff) + text[at + 1:]
            if self.chance(5) and text:
                at = rng.randrange(len(text))
                text = text[:at] + rng.choice(["\\", "\\n", "'", "\\z", "\\'"]) + text[at:]
            end = rng.choice(["'", "\"", "", " "]) if self.chance(3) else quote
            out += b"S"
            self.line(quote + text + end)
        else:
            out += b"\x8c\x01x"
            value = "x"
        self.push("str", value)
        if self.chance(30):
            self.put()

    def integer(self):
        rng, out = self.rng, self.out
        kind = rng.randrange(8)
        value = rng.choice([0, 1, 2, 7, 46, 99, 128, 255, 256, 65535, 1 << 31, -1, -5, 1 << 63, rng.getrandbits(80)])
        if kind == 0:
            out += b"I"
            self.line(self.number(value))
        elif kind == 1:
            out += b"L"
            self.line(self.number(value) + rng.choice(["L", "L", "", "LL"]))
        elif kind == 2:
            out += b"J" + struct.pack("<i", rng.choice([0, 1, -1, 1 << 30, 65]))
        elif kind == 3:
            out += b"K" + bytes([rng.randrange(256)])
        elif kind == 4:
            out += b"M" + struct.pack("<H", rng.randrange(1 << 16))
        elif kind == 5:
            count = rng.choice([0, 1, 2, 8, 9, 20])
            out += b"\x8a" + bytes([count]) + rng.randbytes(count)
        elif kind == 6:
            count = rng.choice([0, 1, 5, 300])
            size = rng.choice([-1, -5, 1 << 30]) if self.chance(1) else count
            out += b"\x8b" + struct.pack("<i", size) + rng.randbytes(count)
        else:
            out += rng.choice([b"I00\n", b"I01\n", b"\x88", b"\x89"])
        self.push("int", value)

    def floating(self):
        if self.chance(50):
            self.out += b"G" + self.rng.randbytes(8)
        else:
            self.out += b"F"
            self.line(self.rng.choice(["1.5", "inf", "nan", "1e5", "-0", " 1_0.5", "1e999"] * 4 + ["1_.", "x", "", "0x1p3", "1.5\0z"]))
        self.push("float")

    def raw(self, data=None):
        rng, out = self.rng, self.out
        if data is None:
            data = self.rng.randbytes(rng.choice([0, 1, 3, 20]))
            if self.depth < 2 and self.chance(30):
                inner = Maker(rng, self.depth + 1)
                data = inner.program(rng.randrange(1, 12))
        kind = rng.randrange(4)
        if kind == 0 and len(data) < 256:
            out += b"C" + bytes([len(data)]) + data
        elif kind == 1:
            out += b"B" + struct.pack("<I", len(data)) + data
        elif kind == 2:
            out += b"\x8e" + struct.pack("<Q", len(data)) + data
        else:
            out += b"\x96" + struct.pack("<Q", len(data)) + data
        self.push("bytes", data)

    def index(self):
        rng = self.rng
        if self.memo and self.chance(94):
            return rng.choice(list(self.memo))
        return rng.choice([0, 1, 2, 3, 5] * 3 + [100, 255, 256, 1 << 40, (1 << 63) - 1, 1 << 63, 1 << 64, (1 << 64) - 1, 1 << 70])

    def put(self):
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            return
        rng, out = self.rng, self.out
        kind = rng.randrange(5)
        if kind < 2:
            out += b"\x94"
            index = len(self.memo)
        else:
            index = rng.choice([0, 1, 2, 3, 4, 10, 255]) if self.chance(90) else self.index()
            if kind == 2 and index < 256:
                out += b"q" + bytes([index])
            elif kind == 3 and index < 256:
                out += b"r" + struct.pack("<I", index)
            else:
                out += b"p"
                self.line(self.number(index))
        self.memo[index] = self.stack[-1]

    def get(self):
        out = self.out
        index = self.index()
        kind = self.rng.randrange(3)
        if kind == 0 and index < 256:
            out += b"h" + bytes([index])
        elif kind == 1 and index < 1 << 16:
            out += b"j" + struct.pack("<I", index)
        else:
            out += b"g"
            self.line(self.number(index))
        self.stack.append(self.memo.get(index, ("none", None)))

    def found(self, module, name):
        out = self.out
        kind = self.rng.randrange(3)
        if kind == 0 and "\n" not in module + name:
            out += b"c"
            self.line(module)
            self.line(name)
            self.push("global", (module, name))
        else:
            # The strings may come from anywhere.
            for part in (module, name):
                known = [key for key, value in self.memo.items() if value == ("str", part)]
                if known and self.chance(80):
                    key = self.rng.choice(known)
                    self.out += b"g"
                    self.line(self.number(key))
                    self.push("str", part)
                else:
                    self.text(part)
            self.out += b"\x93"
            self.pop(2)
            self.push("global", (module, name))

    def pop(self, count=1):
        for _ in range(count):
            if len(self.stack) > (self.marks[-1] if self.marks else 0):
                self.stack.pop()

    def to_mark(self):
        if self.marks:
            del self.stack[self.marks.pop():]

    def above(self):
        return len(self.stack) - (self.marks[-1] if self.marks else 0)

    def top(self, back=1):
        return self.stack[-back][0] if self.above() >= back else None

    def values(self, count):
        for _ in range(count):
            self.value()

    def value(self):
        roll = self.rng.random()
        if roll < 0.3:
            self.text(self.rng.choice(["a", "k", "posix", "system", "builtins", "eval", "latin1", "\u00e9\x80\x02", "os"]))
        elif roll < 0.45:
            self.integer()
        elif roll < 0.5:
            self.floating()
        elif roll < 0.6:
            self.raw()
        elif roll < 0.65:
            self.out += b"N"
            self.push("none")
        elif roll < 0.75 and self.memo:
            self.get()
        else:
            kind = self.rng.choice([b"]", b"}", b")", b"\x8f"])
            self.out += kind
            self.push({b"]": "list", b"}": "dict", b")": "tuple", b"\x8f": "set"}[kind])

    def arguments(self):
        """A tuple on the stack."""
        count = self.rng.choice([0, 0, 1, 1, 2, 3])
        if count == 0:
            self.out += b")"
        elif self.chance(60):
            self.values(count)
            self.out += bytes([0x84 + count])
            self.pop(count)
        else:
            self.out += b"("
            self.marks.append(len(self.stack))
            self.values(count)
            self.out += b"t"
            self.to_mark()
        self.push("tuple")

    def call(self):
        out = self.out
        computed = self.top() == "object" and self.chance(25)
        if self.top() != "global" and not computed or self.chance(30):
            self.found(*self.name())
        kind = 0 if computed else self.rng.randrange(4)
        if kind == 0:
            self.arguments()
            out += b"R"
            self.pop(2)
        elif kind == 1:
            self.arguments()
            out += b"\x81"
            self.pop(2)
        elif kind == 2:
            self.arguments()
            out += b"}"
            self.push("dict")
            if self.chance(30):
                self.text("key")
                self.value()
                out += b"s"
                self.pop(2)
            out += b"\x92"
            self.pop(3)
        else:
            out += b"0"
            self.pop()
            out += b"("
            self.marks.append(len(self.stack))
            module, name = self.name()
            if self.chance(50):
                self.values(self.rng.randrange(3))
                out += b"i"
                self.line(module)
                self.line(name)
            else:
                self.found(module, name)
                self.values(self.rng.randrange(3))
                out += b"o"
            self.to_mark()
        self.push("object")

    def load_bytes(self):
        """Bytes made in one of several ways, passed to a loader."""
        rng, out = self.rng, self.out
        self.found("torch.storage", "_load_from_bytes")
        inner = Maker(rng, self.depth + 1).program(rng.randrange(2, 10)) if self.depth < 2 else b"N."
        kind = rng.randrange(5)
        if kind == 0:
            self.raw(inner)
        elif kind == 1:
            self.found("_codecs", "encode")
            self.text(inner.decode("latin1"))
            self.text(rng.choice(["latin1", "latin1", "utf-8", "ascii"]))
            out += b"\x86R"
            self.pop(3)
            self.push("bytes", inner)
        elif kind == 2:
            self.found("builtins", rng.choice(["bytes", "bytearray"]))
            out += b"]("
            for byte in inner:
                out += b"K" + bytes([byte])
            out += b"e\x85R"
            self.pop()
            self.push("bytes", inner)
        elif kind == 3:
            out += b"\x96" + struct.pack("<Q", len(inner)) + inner
            if self.chance(30):
                out += b"K\x2ea"
            self.push("bytes", inner)
        else:
            self.text(inner.decode("latin1"))
        if self.chance(10):
            out += rng.choice([b"\x98", b"2", b"\x94", b"K\x01a", b"Nb", b"q\x07h\x07"])
        out += b"\x85R"
        self.pop(2)
        self.push("object")

    def change(self):
        """Puts something into what is on top."""
        rng, out = self.rng, self.out
        fitting = {"list": [0, 2], "dict": [1, 3], "set": [4], "object": [0, 1, 2, 3, 4, 5, 5, 5], "global": [5]}
        if self.top() not in fitting and self.chance(93) or self.above() == 0:
            made = rng.choice([b"]", b"}", b"\x8f"])
            out += made
            self.push({b"]": "list", b"}": "dict", b"\x8f": "set"}[made])
        kind = rng.choice(fitting.get(self.top(), range(6))) if self.chance(96) else rng.randrange(6)
        if kind == 0:
            self.value()
            out += b"a"
            self.pop()
        elif kind == 1:
            self.text("key")
            self.value()
            out += b"s"
            self.pop(2)
        elif kind in (2, 3, 4):
            out += b"("
            self.marks.append(len(self.stack))
            count = rng.randrange(4)
            if kind == 2 or self.chance(3):
                self.values(count)
            else:
                # Keys, and members of sets, have to be hashable.
                for _ in range(count):
                    self.text(rng.choice(["a", "posix", "system"]))
                    if kind == 3:
                        self.value()
            out += b"eu\x90"[kind - 2:kind - 1]
            self.to_mark()
        else:
            # A state, with slots sometimes.
            out += b"}"
            self.push("dict")
            if self.chance(60):
                self.text("field")
                self.value()
                out += b"s"
                self.pop(2)
            if self.chance(30):
                out += rng.choice([b"N\x86", b"}\x86", b"\x85", b"N\x87"])
            out += b"b"
            self.pop()

    def frame(self):
        rng = self.rng
        self.out += b"\x95"
        size = rng.choice([0, 1, 2, 3, 4, 5, 6, 8, 10, 16, 40] * 3 + [1 << 20, 1 << 62, 1 << 63, (1 << 64) - 1])
        self.out += struct.pack("<Q", size)

    def step(self):
        rng, out = self.rng, self.out
        roll = rng.random()
        if roll < 0.22:
            self.value()
        elif roll < 0.40:
            self.call()
        elif roll < 0.48:
            self.found(*self.name())
        elif roll < 0.60:
            self.change()
        elif roll < 0.66:
            self.put()
        elif roll < 0.70 and self.memo:
            self.get()
        elif roll < 0.73:
            out += b"("
            self.marks.append(len(self.stack))
        elif roll < 0.80 and self.marks:
            kind = rng.choice(b"tld1\x91eu\x90")
            if kind == ord("d") and self.above() % 2:
                self.value()
            if kind in b"eu\x90" and self.marks[-1] == 0:
                kind = ord("t")
            self.to_mark()
            out.append(kind)
            if kind in b"tld\x91":
                self.push({ord("t"): "tuple", ord("l"): "list", ord("d"): "dict", 0x91: "set"}[kind])
        elif roll < 0.83:
            if self.above():
                out += b"2"
                self.stack.append(self.stack[-1])
        elif roll < 0.86:
            if self.above():
                out += b"0"
                self.pop()
        elif roll < 0.885:
            self.frame()
        elif roll < 0.90:
            if self.chance(50):
                out += b"P"
                self.line(rng.choice(["storage", "1", "", "\u00e9"]))
            else:
                self.value()
                out += b"Q"
                self.pop()
            self.push("object")
        elif roll < 0.92:
            code = rng.choice([1, 2, 255, 256, 65535, 65536] * 3 + [7, 0, -1])
            if code > 0 and code < 256 and self.chance(60):
                out += b"\x82" + bytes([code])
            elif 0 <= code < 65536 and self.chance(60):
                out += b"\x83" + struct.pack("<H", code)
            else:
                out += b"\x84" + struct.pack("<i", code)
            self.push("global")
        elif roll < 0.93:
            out += rng.choice([b"\x97", b"\x98"])
            if out[-1] == 0x97:
                self.push("bytes")
        elif roll < 0.94:
            out += b"\x80" + bytes([rng.choice([0, 1, 2, 3, 4, 5, 6, 255])])
        elif roll < 0.96:
            self.load_bytes()
        elif roll < 0.965:
            out += b"."
        elif roll < 0.99:
            count = rng.randrange(1, 4)
            if self.above() >= count:
                out += bytes([0x84 + count])
                self.pop(count)
                self.push("tuple")
        else:
            # Any opcode at all.
            out.append(rng.choice(OPCODES))

    def program(self, steps):
        rng, out = self.rng, self.out
        if self.chance(70):
            out += b"\x80" + bytes([rng.choice([2, 2, 3, 4, 5])])
        if self.chance(12):
            out += b"\x95" + struct.pack("<Q", rng.choice([0, 4, 20, 60, 200]))
        for _ in range(steps):
            self.step()
        # Most end well.
        if self.chance(85):
            while self.marks:
                out += rng.choice([b"1", b"t", b"l"])
                self.to_mark()
                if out[-1] != ord("1"):
                    self.push("tuple")
            if not self.stack:
                out += b"N"
            out += b"."
        return bytes(out)


OPCODES = b"(012FILNPQRSTUVXabcdeghijlopqrstu)]}GJKMBC\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98."


def mutated(rng, program, other):
    data = bytearray(program)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        kind = rng.randrange(7)
        at = rng.randrange(len(data) + 1)
        if kind == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at:at] = bytes([rng.choice(OPCODES)])
        elif kind == 3:
            del data[at:at + rng.choice([1, 1, 2, 8])]
        elif kind == 4:
            start = rng.randrange(len(data) + 1)
            data[at:at] = data[start:start + rng.randrange(20)]
        elif kind == 5:
            start = rng.randrange(len(other) + 1)
            data[at:] = other[start:]
        elif len(data) > 4 and rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def remembered(rng):
    """Two pickles: the second imports what its memo holds, which an unpickler keeps from the first."""
    out = b""
    for names in (rng.choice(DANGEROUS + UNKNOWN), rng.choice(HARMLESS)):
        made = Maker(rng)
        made.out += b"\x80\x04"
        for part in names:
            made.text(part)
            if not made.memo or made.memo.get(len(made.memo) - 1) != ("str", part):
                made.put()
        out += bytes(made.out) + (b"." if not out else b"")
    return out + b"h\0h\1\x93" + rng.choice([b"", b")R"]) + b"."


def programs(seed):
    rng = random.Random(seed)
    previous = b"N."
    while True:
        program = Maker(rng).program(rng.choice([1, 2, 3, 4, 6, 9, 14, 25]))
        changed = mutated(rng, program, previous) if rng.random() < 0.4 else program
        previous = program
        if rng.random() < 0.06:
            changed += Maker(rng).program(rng.randrange(1, 6))
        if rng.random() < 0.02:
            changed = remembered(rng)
        yield changed, rng.choice(["ASCII", "ASCII", "utf-8", "latin1", "bytes"])
