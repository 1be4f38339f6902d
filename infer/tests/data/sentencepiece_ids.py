"""Makes the models of `sentencepiece/` and what the library itself (sentencepiece 0.2.3) makes of texts with each: their ids, as JSON.

    python infer/tests/data/sentencepiece_ids.py
"""

import io
import json
import pathlib

import sentencepiece

HERE = pathlib.Path(__file__).parent / "sentencepiece"
CORPUS = ["the hello world of tokens and numbers 12 123", "don't can't it's", "foo bar wor worlds hello  again", "fi ṩ 가 각 x\ty"] * 6
TEXTS = [
    "hello world", " hello", "  hello   world  ", "hello ", "world wor worlds", "<|x|>hi <|x|> a", "a<|x|>", "it's 123\n\nfoo", "\u1e9b\u0323 \u1e9b",
    "\u1100\u1161 \u1100 \u1100\u1161\u11a8", "\ufb01sh", "a\u3000b", "\u3000", "\u2581x \u2581\u2581", "", "ｈello", "é", "x\u200by",
]
# Rules as those of nmt_nfkc, few enough for a small file: sequences, spaces, and one that leaves nothing.
RULES = [
    ("1E9B 0323", "1E69"), ("1E9B", "1E61"), ("1100 1161 11A8", "AC01"), ("1100 1161", "AC00"), ("FB01", "66 69"),
    ("3000", "20"), ("9", "20"), ("FF48", "68"), ("200B", ""),
]
BPE = dict(model_type="bpe", byte_fallback=True, vocab_size=330)
PLAIN = dict(normalization_rule_name="identity", remove_extra_whitespaces=False)
SYMBOLS = dict(user_defined_symbols=["<|x|>", "wor", "\n\n", "\u2581\u2581"])
MODELS = {
    "bpe-rules": BPE | dict(rules=True),
    "bpe-no-bytes": dict(model_type="bpe", vocab_size=70) | PLAIN,
    "bpe-suffix": BPE | PLAIN | dict(treat_whitespace_as_suffix=True),
    "bpe-symbols": BPE | PLAIN | SYMBOLS,
    "bpe-symbols-bare": BPE | PLAIN | SYMBOLS | dict(add_dummy_prefix=False),
    "bpe-trims": BPE | dict(normalization_rule_name="identity"),
    "unigram-rules": dict(model_type="unigram", vocab_size=60, rules=True),
    "unigram-symbols": dict(model_type="unigram", vocab_size=60) | PLAIN | SYMBOLS,
    "unigram-suffix": dict(model_type="unigram", vocab_size=60, treat_whitespace_as_suffix=True) | PLAIN,
}

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    table = HERE / "rules.tsv"
    table.write_text("".join(f"{a}\t{b}\n" for a, b in RULES))
    ids = {}
    for name, settings in MODELS.items():
        settings = dict(settings)
        if settings.pop("rules", False):
            settings["normalization_rule_tsv"] = str(table)
        file = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS), model_writer=file, minloglevel=3, hard_vocab_limit=False, **settings
        )
        (HERE / f"{name}.model").write_bytes(file.getvalue())
        model = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
        ids[name] = [[text, model.encode(text)] for text in TEXTS]
    table.unlink()
    (HERE / "ids.json").write_text(json.dumps(ids, ensure_ascii=False, separators=(",", ":")) + "\n")
