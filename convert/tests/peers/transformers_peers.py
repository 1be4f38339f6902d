"""Small random models as transformers saves them, and whether it computes the same of their copies.

`make FOLDER 1BITLLM MODEL_TYPE…` writes models of each type in several settings into FOLDER, and one of them under the names
of 1bitLLM into 1BITLLM; `compare FOLDER COPIES` compares each
copy in COPIES/NAME with FOLDER/NAME: logits, tensors that are missing or too many, ids of the tokenizer for texts that are
difficult, the chat template, ids with a role. `ids TOKENIZER INPUTS IDS` compares a tokenizer.json with the ids of texts.
"""

import json
import os
import sys

# Its BitLinear is meant to be compiled, for which a C compiler would be needed.
os.environ["TORCHDYNAMO_DISABLE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

SIZES = dict(vocab_size=600, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             intermediate_size=48, max_position_embeddings=128, initializer_range=0.2)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=32)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
SETTINGS = {
    "plain": dict(),
    "tied": dict(tie_word_embeddings=True, head_dim=12),
    "biases": dict(attention_bias=True, mlp_bias=True),
    "window": dict(sliding_window=9, use_sliding_window=True, max_window_layers=0),
    "linear": dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
    "llama3": dict(rope_parameters=LLAMA3),
    "yarn": dict(rope_parameters=YARN),
    "yarn-attention": dict(rope_parameters=YARN | dict(attention_factor=1.3)),
    "yarn-scales": dict(rope_parameters=YARN | dict(mscale=0.7, mscale_all_dim=0.4)),
    "yarn-bounds": dict(rope_parameters=YARN | dict(beta_fast=8.0, beta_slow=2.0)),
}
ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
NORMS = {"use_rms_norm": True, "rms_norm_eps": 1e-6}
PACKED = {"quant_method": "bitnet", "quantization_mode": "offline"}
# The ternary models that are published, by the class that they extend and what their config.json says of quantization.
TERNARY = {
    "llama-online": ("llama", ONLINE),
    "llama-norms-online": ("llama", ONLINE | NORMS),
    "llama-packed": ("llama", PACKED | {"linear_class": "bitlinear"}),
    "llama-norms-packed": ("llama", PACKED | NORMS | {"linear_class": "autobitlinear"}),
    "bitnet-online": ("bitnet", ONLINE),
    "bitnet-packed": ("bitnet", PACKED | {"linear_class": "bitlinear"}),
    "bitnet-auto-packed": ("bitnet", PACKED | {"linear_class": "autobitlinear"}),
    "bitnet-norms-packed": ("bitnet", PACKED | NORMS | {"linear_class": "bitlinear"}),
    "bitnet-of-1bitllm-online": ("bitnet", ONLINE),
}
# Others' heads are not their embeddings.
TIED = {"bitnet": dict(tie_word_embeddings=True)}
# Few enough experts, and a size of heads that YaRN needs to be told.
EXPERTS = {
    "mixtral": dict(num_local_experts=4, head_dim=8),
    "qwen3_moe": dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, norm_topk_prob=True, head_dim=8),
}
# Of those whose own are beyond these sizes.
TOKENS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
NAMES_OF_1BITLLM = {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}
ENDS = [2, 5, 7, 9]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ eos_token }}{% endfor %}é"
TEXTS = [
    "", " ", "  ", "Hello, world!", "hello   world  ", "\n\n\n x\t\t\ty\r\n\r\n", "def f(x):\n    return x + 1\n",
    "e\u0301 \u1e9b\u0323 Ａ ﬁ", "日本語のテキスト、한국어 ไทย עברית العربية", "👩‍👩‍👧‍👦🏳️‍🌈 🤯", "1234567890 3.14159 ⅷ²",
    "it's we'LL I'd they'Ve", "<s>text</s>", "<|im_start|>user\nhi<|im_end|>", "\u0000\u0001\x7f\u200b\ufeff", "a" * 300,
    " leading and trailing ", "x" + " " * 40 + "y", "…—“quotes”", "\U0010ffff", "<added>  <added>mid<added>",
]


def tokenizers():
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    corpus = TEXTS + ["the quick brown fox jumps over the lazy dog, isn't it? " * 3, "import numpy as np\nprint(np.zeros((3, 4)))\n"]
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<pad>", "<|x|>", "<|y|>", "<|z|>", "<|w|>"]
    qwen2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
             r"|\s*[\r\n]+|\s+(?!\S)|\s+")
    llama3 = qwen2.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")

    def byte_level(pattern, normalizer, bos, ignore_merges):
        made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
        if normalizer is not None:
            made.normalizer = normalizer
        made.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])
        made.decoder = decoders.ByteLevel()
        made.train_from_iterator(corpus, trainers.BpeTrainer(
            vocab_size=500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        made.add_tokens([AddedToken("<added>", normalized=False)])
        if bos:
            made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
        return made

    def character(prefix):
        vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": byte + 3 for byte in range(256)}
        words = "▁the ▁quick ▁brown lo ello ▁Hello ▁▁ ▁▁▁▁ in ing ▁in re tu rn return ▁return def ▁def al il".split()
        pieces = words + sorted({c for text in corpus for c in text.replace(" ", "▁")} | {w[:n] for w in words for n in range(1, len(w))})
        for piece in dict.fromkeys(pieces):
            vocab.setdefault(piece, len(vocab))
        # As in Llama: every way to make a token, those of tokens with lower ids first.
        pairs = [(w[:n], w[n:]) for w in vocab for n in range(1, len(w)) if vocab[w] > 258 and w[:n] in vocab and w[n:] in vocab]
        made = Tokenizer(models.BPE(vocab, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        spaces = normalizers.Replace(" ", "▁")
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces] if prefix else [spaces])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        made.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] if prefix else steps)
        made.add_special_tokens(special[:3])
        made.add_tokens([AddedToken("<added>", normalized=False)])
        made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
        return made

    return {
        "qwen2-nfc": byte_level(qwen2, normalizers.NFC(), False, False),
        "qwen2-plain": byte_level(qwen2, None, False, False),
        "llama3": byte_level(llama3, None, True, True),
        "llama-prefix": character(True),
        "llama": character(False),
    }


def rounding(config, words):
    """A model of `config` whose projections are BitLinears, as `words` of config.json say."""
    from transformers import AutoModelForCausalLM, BitNetQuantConfig
    from transformers.integrations.bitnet import replace_with_bitnet_linear

    model = AutoModelForCausalLM.from_config(config)
    known = {key: word for key, word in words.items() if key != "quant_method"}
    return replace_with_bitnet_linear(model, ["lm_head"], BitNetQuantConfig(**known))


def ternary(folder, theirs):
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig
    from transformers.integrations.bitnet import pack_weights

    for name, (kind, words) in TERNARY.items():
        silu = dict(hidden_act="silu") if "1bitllm" in name else {}
        config = AutoConfig.for_model(kind, **SIZES | TIED.get(kind, {}) | silu)
        model, tensors = rounding(config, words), {}
        for key, meta in model.state_dict().items():
            if key.endswith("weight_scale") or key == "lm_head.weight" and config.tie_word_embeddings:
                continue
            if not key.split(".")[-2].endswith("_proj"):
                tensors[key] = 0.2 * torch.randn(meta.shape) + ("norm" in key)
                continue
            packs = words["quantization_mode"] == "offline"
            rows = meta.shape[0] * (4 if meta.dtype == torch.uint8 else 1)
            tensors[key] = 0.1 * torch.randn(rows, meta.shape[1])
            if packs:
                scale = tensors[key].abs().mean().reshape(1)
                tensors[key] = pack_weights((tensors[key] / scale).round().clamp(-1, 1))
                tensors[f"{key}_scale"] = scale if words["linear_class"] == "autobitlinear" else 1 / scale
        said = config.to_dict() | {"architectures": [type(model).__name__], "quantization_config": words}
        forms = [(os.path.join(folder, name), said, tensors)]
        if "1bitllm" in name:
            said = said | {"architectures": ["BitnetForCausalLM"], "model_type": "llama", "input_bits": 8, "weight_bits": 1}
            del said["quantization_config"]
            for ours, other in NAMES_OF_1BITLLM.items():
                tensors = {key.replace(ours, other): tensor for key, tensor in tensors.items()}
            forms.append((os.path.join(theirs, name), said, tensors))
        for place, said, tensors in forms:
            os.mkdir(place)
            save_file(tensors, os.path.join(place, "model.safetensors"), metadata={"format": "pt"})
            with open(os.path.join(place, "config.json"), "w") as file:
                json.dump(said, file, default=str)


def make(folder, theirs, *kinds):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)

    def save(name, config):
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                # Norms and biases begin at one and zero, where nobody would see that they are missing.
                if "norm" in parameter_name or "bias" in parameter_name:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(os.path.join(folder, name))

    for kind in kinds:
        known = AutoConfig.for_model(kind)
        for name, settings in SETTINGS.items():
            own = {key: value for key, value in settings.items() if key == "rope_parameters" or hasattr(known, key)}
            if not own and settings or kind == "phi3" and "rope_parameters" in own:
                continue
            if kind == "gemma3_text" and own.get("rope_parameters"):
                own["rope_parameters"] = {"full_attention": own["rope_parameters"],
                                          "sliding_attention": dict(rope_type="default", rope_theta=2e4)}
            if kind.startswith("gemma"):
                own.setdefault("head_dim", 8)
                own["query_pre_attn_scalar"] = own["head_dim"]
            own = EXPERTS.get(kind, {}) | own
            tokens = {} if getattr(known, "pad_token_id", None) is None else TOKENS
            save(f"{kind}-{name}", AutoConfig.for_model(kind, **SIZES | TIED.get(kind, {}) | tokens | own))
    save("bitnet-silu", AutoConfig.for_model("bitnet", **SIZES | TIED["bitnet"], hidden_act="silu"))
    ternary(folder, theirs)
    for name, tokenizer in tokenizers().items():
        place = f"tokenizer-{name}"
        save(place, AutoConfig.for_model("llama", **SIZES, bos_token_id=1, eos_token_id=ENDS, pad_token_id=0))
        tokenizer.save(os.path.join(folder, place, "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
                    "unk_token": "<unk>", "clean_up_tokenization_spaces": False, "chat_template": TEMPLATE}
        with open(os.path.join(folder, place, "tokenizer_config.json"), "w") as file:
            json.dump(settings, file)


def compare(folder, copies):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.integrations.bitnet import unpack_weights

    ids = torch.randint(SIZES["vocab_size"], (1, 60), generator=torch.Generator().manual_seed(2))

    def loaded(path):
        config = AutoConfig.from_pretrained(path)
        if getattr(config, "quantization_config", None) is None:
            model, info = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
            lost = {key: sorted(map(str, names)) for key, names in info.items() if names}
            assert not lost, (path, lost)
            return model
        # Loading it as a whole would need accelerate.
        words = dict(config.quantization_config)
        made = TERNARY[os.path.basename(path)][1]
        assert all(words.get(key) == made.get(key) for key in ("quantization_mode", "use_rms_norm")), (path, words)
        del config.quantization_config
        model, tensors = rounding(config, words), load_file(os.path.join(path, "model.safetensors"))
        if words["linear_class"] == "autobitlinear" and words["quantization_mode"] == "offline":
            packed = [name for name, tensor in tensors.items() if tensor.dtype == torch.uint8]
            tensors |= {name: unpack_weights(tensors[name], torch.float32) for name in packed}
        if config.tie_word_embeddings:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        model.load_state_dict(tensors, assign=True)
        return model

    def logits(path):
        model = loaded(path)
        with torch.no_grad():
            return model.eval()(ids).logits[0], model

    for name in sorted(os.listdir(copies)):
        (before, first), (after, second) = (logits(os.path.join(place, name)) for place in (folder, copies))
        off = (before - after).abs().max() / before.abs().max()
        assert off < 2e-5, (copies, name, float(off))
        if not name.startswith("tokenizer-"):
            continue
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            values = [getattr(model.generation_config, key) for model in (first, second)]
            assert values[0] == values[1], (name, key, values)
        before, after = (AutoTokenizer.from_pretrained(os.path.join(place, name)) for place in (folder, copies))
        for text in TEXTS:
            wanted = before(text).input_ids
            assert after(text).input_ids == wanted, (name, text, wanted, after(text).input_ids)
            assert after.decode(wanted) == before.decode(wanted), (name, text)
        assert after.chat_template == TEMPLATE, name
        roles = [(t.bos_token, t.eos_token, t.unk_token) for t in (before, after)]
        assert roles[0][:2] == roles[1][:2], (name, roles)
    print(f"{len(os.listdir(copies))} models compute the same")


def ids(tokenizer, inputs, wanted):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer)
    with open(inputs, encoding="utf-8", newline="") as file:
        texts = file.read().split("\n__ggml_vocab_test__\n")
    with open(wanted) as file:
        lines = [[int(word) for word in line.split()] for line in file]
    assert len(texts) == len(lines)
    for text, line in zip(texts, lines):
        got = tokenizer.encode(text, add_special_tokens=False).ids
        assert got == line, (text, line, got)
    print(f"{len(texts)} texts have the same ids")


{"make": make, "compare": compare, "ids": ids}[sys.argv[1]](*sys.argv[2:])
