"""Makes tiny random models of many families with transformers, with every setting that changes what they compute, and what
transformers computes: `families.py make FOLDER` writes one folder each, and in FOLDER-truth a file each: `ids`, `logits` of these, and
`greedy`, the ids after them that are likeliest one after another, far beyond windows and original lengths. `families.py lacking FOLDER` does the
same with a model of each class whose config.json says neither whether tables are tied nor how positions rotate, and writes those
whose head is then a tensor of its own to FOLDER-headless without it. `families.py same
FOLDER COPIES` compares the logits of copies with the truth of FOLDER. `families.py tables FILE...` compares the names of
tensors and keys in GGUF files with the tables of llama.cpp's gguf package.
"""

import json
import os
import re
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

# Threads cost more than such sizes gain by them.
torch.set_num_threads(1)
SIZES = dict(vocab_size=53, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             intermediate_size=36, max_position_embeddings=192, initializer_range=0.2)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=32)
WINDOW = dict(sliding_window=9, use_sliding_window=True)
LONG = dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0, 1.25, 1.5], long_factor=[1.5, 3.25, 7.0])
GEMMA = dict(head_dim=10, query_pre_attn_scalar=10, sliding_window=9)
CASES = {
    "llama-gelu": ("llama", dict(hidden_act="gelu", attention_bias=True, mlp_bias=True)),
    "llama-gelu-tanh": ("llama", dict(hidden_act="gelu_new")),
    "llama-yarn": ("llama", dict(rope_parameters=YARN)),
    "qwen2-yarn": ("qwen2", dict(rope_parameters=YARN | dict(mscale=0.7, mscale_all_dim=0.4, beta_fast=8.0, beta_slow=2.0))),
    "qwen3-yarn": ("qwen3", dict(rope_parameters=YARN | dict(attention_factor=1.3, truncate=False), head_dim=14)),
    "mistral-window": ("mistral", dict(sliding_window=9, head_dim=10)),
    "ministral-types": ("ministral", dict(
        sliding_window=9, head_dim=10, layer_types=["full_attention", "sliding_attention", "full_attention"])),
    "qwen2-window": ("qwen2", WINDOW | dict(max_window_layers=0)),
    "qwen2-window-later": ("qwen2", WINDOW | dict(max_window_layers=1)),
    "qwen3-window-types": ("qwen3", WINDOW | dict(
        attention_bias=True, layer_types=["full_attention", "sliding_attention", "full_attention"])),
    "smollm3": ("smollm3", dict(num_hidden_layers=5, attention_bias=True, mlp_bias=True)),
    "smollm3-plain": ("smollm3", dict(num_hidden_layers=5)),
    "smollm3-window": ("smollm3", WINDOW | dict(num_hidden_layers=5, no_rope_layers=[1, 0, 0, 1, 1])),
    "smollm3-types": ("smollm3", dict(sliding_window=9, num_hidden_layers=4, layer_types=["full_attention", "sliding_attention"] * 2)),
    "smollm3-window-all": ("smollm3", WINDOW | dict(num_hidden_layers=4, layer_types=["sliding_attention"] * 4)),
    "granite": ("granite", dict(embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.3, logits_scaling=2.5,
                                attention_bias=True, mlp_bias=True, rope_parameters=YARN)),
    "granite-plain": ("granite", dict(tie_word_embeddings=True)),
    "olmo2": ("olmo2", dict(rope_parameters=YARN)),
    "olmo2-biases": ("olmo2", dict(attention_bias=True, tie_word_embeddings=True)),
    "phi3": ("phi3", dict(partial_rotary_factor=0.75, original_max_position_embeddings=48, rope_parameters=LONG)),
    "phi3-long": ("phi3", dict(partial_rotary_factor=0.75, original_max_position_embeddings=32, rope_parameters=LONG)),
    "phi3-window": ("phi3", dict(sliding_window=11, tie_word_embeddings=True)),
    "gemma2": ("gemma2", GEMMA | dict(num_hidden_layers=4, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma2-biases": ("gemma2", GEMMA | dict(query_pre_attn_scalar=23, attention_bias=True, attn_logit_softcapping=None)),
    "gemma3": ("gemma3_text", GEMMA | dict(num_hidden_layers=7, final_logit_softcapping=3.0, rope_parameters={
        "full_attention": dict(rope_type="linear", rope_theta=1e6, factor=4.0),
        "sliding_attention": dict(rope_type="default", rope_theta=2e4)})),
    "gemma3-types": ("gemma3_text", GEMMA | dict(query_pre_attn_scalar=23, attention_bias=True, hidden_activation="gelu", layer_types=[
        "sliding_attention", "full_attention", "sliding_attention"])),
    "gemma3-full": ("gemma3_text", GEMMA | dict(layer_types=["full_attention"] * 3)),
    "gemma3-long": ("gemma3_text", GEMMA | dict(num_hidden_layers=7, rope_parameters={
        "full_attention": dict(rope_type="longrope", rope_theta=1e6, short_factor=[1.0, 1.25, 1.5, 2.0, 2.5],
                               long_factor=[1.5, 3.25, 7.0, 8.0, 9.0], original_max_position_embeddings=32),
        "sliding_attention": dict(rope_type="default", rope_theta=2e4)})),
    "mixtral": ("mixtral", dict(num_local_experts=5, num_experts_per_tok=2)),
    "mixtral-window": ("mixtral", dict(num_local_experts=4, num_experts_per_tok=3, sliding_window=9, head_dim=10)),
    "qwen3moe": ("qwen3_moe", dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=20, norm_topk_prob=True, head_dim=10)),
    "qwen3moe-sums": ("qwen3_moe", WINDOW | dict(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=20, norm_topk_prob=False,
                                                 attention_bias=True)),
}
# Ids that are run together, and that follow.
PROMPT, FOLLOWING = 40, 72


def tokenizer(size):
    """A token for each of as many bytes: llama.cpp runs nothing without a vocabulary."""
    made = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet())[:size])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def make(folder, names):
    for number, (name, (kind, settings)) in enumerate(CASES.items()):
        if names and name not in names:
            continue
        torch.manual_seed(number)
        config = AutoConfig.for_model(kind, **SIZES | dict(pad_token_id=None, bos_token_id=None, eos_token_id=None) | settings)
        config._attn_implementation = "eager"
        model = shaken(AutoModelForCausalLM.from_config(config).eval())
        place = os.path.join(folder, name)
        model.save_pretrained(place)
        tokenizer(config.vocab_size).save(os.path.join(place, "tokenizer.json"))
        os.makedirs(f"{folder}-truth", exist_ok=True)
        save_file(truth_of(model, config.vocab_size), os.path.join(f"{folder}-truth", f"{name}.safetensors"))


def shaken(model):
    # Norms and biases begin at one and zero, where nobody would see that they are missing.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def truth_of(model, vocab_size):
    ids = torch.randint(vocab_size, (1, PROMPT))
    with torch.no_grad():
        logits = model(ids).logits[0]
        greedy = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=FOLLOWING,
                                min_new_tokens=FOLLOWING)[0, PROMPT:]
    assert len(greedy) == FOLLOWING
    return {"ids": ids[0].int(), "logits": logits.contiguous(), "greedy": greedy.int()}


LACKING = dict(llama={}, mistral={}, qwen2={}, qwen3={}, bitnet={}, smollm3={}, granite={}, olmo2={}, phi3={},
               gemma2=GEMMA, gemma3_text=GEMMA, mixtral=dict(num_local_experts=4),
               qwen3_moe=dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=20, norm_topk_prob=True))


# What else is said then, of which transformers makes nothing or something of its own.
SAID = {
    "gemma3_text-flat": ("gemma3_text", dict(rope_parameters=dict(rope_type="linear", factor=8.0, rope_theta=3e4))),
    "mistral-types": ("mistral", dict(
        sliding_window=9, layer_types=["full_attention", "sliding_attention", "full_attention"])),
}


def lacking(folder):
    cases = [(kind, kind, {}) for kind in LACKING] + [(name, *said) for name, said in SAID.items()]
    for number, (name, kind, more) in enumerate(cases):
        settings = LACKING[kind]
        torch.manual_seed(number)
        config = AutoConfig.for_model(kind, **SIZES | dict(pad_token_id=None, bos_token_id=None, eos_token_id=None) | settings)
        place = os.path.join(folder, name)
        shaken(AutoModelForCausalLM.from_config(config)).save_pretrained(place)
        told = os.path.join(place, "config.json")
        said = json.load(open(told))
        for word in ("rope_parameters", "rope_theta", "rope_local_base_freq", "tie_word_embeddings"):
            said.pop(word, None)
        said.update(more)
        json.dump(said, open(told, "w"))
        load = dict(dtype=torch.float32, output_loading_info=True, attn_implementation="eager")
        model, info = AutoModelForCausalLM.from_pretrained(place, **load)
        assert not info["missing_keys"], (kind, info)
        os.makedirs(f"{folder}-truth", exist_ok=True)
        save_file(truth_of(model.eval(), config.vocab_size), os.path.join(f"{folder}-truth", f"{name}.safetensors"))
        weights = load_file(os.path.join(place, "model.safetensors"))
        if weights.pop("lm_head.weight", None) is not None:
            headless = os.path.join(f"{folder}-headless", name)
            os.makedirs(headless)
            json.dump(said, open(os.path.join(headless, "config.json"), "w"))
            save_file(weights, os.path.join(headless, "model.safetensors"), metadata={"format": "pt"})
            _, info = AutoModelForCausalLM.from_pretrained(headless, **load)
            assert set(info["missing_keys"]) == {"lm_head.weight"}, (kind, info)


def same(folder, copies):
    for name in sorted(os.listdir(copies)):
        truth = load_file(os.path.join(f"{folder}-truth", f"{name}.safetensors"))
        model, info = AutoModelForCausalLM.from_pretrained(
            os.path.join(copies, name), dtype=torch.float32, output_loading_info=True, attn_implementation="eager",
            pad_token_id=None)
        lost = {key: sorted(map(str, names)) for key, names in info.items() if names}
        assert not lost, (name, lost)
        with torch.no_grad():
            logits = model.eval()(truth["ids"][None].long()).logits[0]
        off = (logits - truth["logits"]).abs().max() / truth["logits"].abs().max()
        assert off < 2e-5, (name, float(off))
    print(f"{len(os.listdir(copies))} models compute the same")


def tables(*paths):
    import gguf

    for path in paths:
        reader = gguf.GGUFReader(path)
        name = bytes(reader.fields["general.architecture"].parts[-1]).decode()
        [architecture] = [known for known, called in gguf.MODEL_ARCH_NAMES.items() if called == name]
        tensors = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[architecture]}
        for tensor in reader.tensors:
            module, leaf = re.sub(r"^blk\.\d+", "blk.{bid}", tensor.name).rsplit(".", 1)
            assert module in tensors and leaf in ("weight", "bias"), (path, tensor.name)
        groups = [group for group in vars(gguf.Keys).values() if isinstance(group, type)]
        keys = {key.replace("{arch}", name) for group in groups for key in vars(group).values() if isinstance(key, str)}
        for key in reader.fields:
            assert key in keys or key.startswith(("GGUF.", "ckpt.")), (path, key)
    print(f"{len(paths)} files have names of the tables")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    make(arguments[0], arguments[1:]) if command == "make" else globals()[command](*arguments)
