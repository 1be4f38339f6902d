"""Writes to a folder tokenizers that split text by patterns, as Python's tokenizers library reads them: each has as tokens the pieces
of one text. Prints, for each, the pattern, the text and the ids; `patterns.py FOLDER`.
"""

import json
import sys
import unicodedata

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s")
TEXT = ("1234567 don't I'LL x=y;\n\n  \tdef f(a1_b): return\r\n \u00a0é e\u0301 ﬁ ½² ١٢٣ Ⅷ ʰ ǅ ß ſ µ 日本語 한국 ไทย\u0e33 👩\u200d👩 \u200b[a--b] "
        "a~~b $+<=>^`|~ «x» _foo_bar -- {2} x{ a{,} <b> (c|d) ab abb abc\n\n\n")
# Without private and unassigned ones, of which versions of Unicode differ.
ALL = "".join(c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co"))
CASES = [(pattern, text) for text in (TEXT, TEXT[::-1], "a\nb\n", "\na  \n\nb  ") for pattern in [
    CL100K, r"\p{N}{1,3}+", r"\p{N}{3}+", r"\p{N}{2}?", r"\p{N}{1,2}?", r"a{,2}", r"\p{L}{2,}", r"\p{L}{2,}?\p{N}", r"(?:ab){1,2}+", r"a{0,2}+b", r"a{1,2}{2}",
    r"\s+$", r"\s++$", r"^a", r"^", r"$", r"^\s*", r"a\Z", r"\n\Z", r"\s+\z", r"\A\S+", r"\h+", r"[\h]+", r"\H", r"[^\H]+",
    r"[[:alpha:]]+", r"[[:punct:]]+", r"[[:^alpha:]]+", r"[^[:alpha:]\s]+", r"[[:digit:][:space:]]+", r"[[:upper:]]", r"[[:word:]]+", r"[[:xdigit:]]+",
    r"x(?i)a|b", r"(?i)A|B", r"(a|b)(?i)B|D", r"(x(?i)a|b)y|c", r"(?m)a.b", r"a.b", r"(?-i:A)", r"(?i-m:A)|b", r"[a~~b]+", r"a??+b", r"a?+b", r"a**", r"(?>a+)b",
    r"\w+", r"\W+", r"[\w-]+", r"[^\w\s]+", r"\bab\b", r"\Bb", r"[a-z&&[^b]]+", r"[]a]+", r"x\{", r"x{", r"\p{^L}+", r"\P{L}+", r"(?<n>b)\k<n>" if False else r"bb",
    r"\u00e9", r"\x{e9}", r"\-\#\_\{", r"(?#what)ab", r"(?<=a)b", r"(?<!a)b", r"(?=b).", r"(?!b)\S", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
]] + [(pattern, ALL) for pattern in [r"\w+", r"\d+", r"\s+", r"\b", r"[[:punct:]]+", r"[[:alpha:]]+", r"[[:alnum:]]+", r"[[:upper:]]+", r"[[:lower:]]+", r"[[:space:]]+"]]


def main(folder):
    told = []
    for number, (pattern, text) in enumerate(CASES):
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        pieces = list(dict.fromkeys(piece for piece, _ in split.pre_tokenize_str(text)))
        tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(["[UNK]", *pieces])}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = split
        tokenizer.save(f"{folder}/{number}.json")
        told.append([pattern, text, tokenizer.encode(text).ids])
    print(json.dumps(told))


main(sys.argv[1])
