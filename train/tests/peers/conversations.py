"""Conversations, prompts and responses as transformers tokenizes and masks them.

Makes a folder with a tokenizer for each case in the folder of the first argument, and prints for each the line of data, and the tokens of
the document with what of them is learnt.
"""

import json
import os
import sys

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "def add(a, b):\n    return a + b\n", "foobar baz foo bar value return x = 1 + y", "Hello there, how are you? Bye. Hi",
    "### Assistant:\n### User:\nsystem user assistant tool", "naïve héllo 日本語 世界 🙂",
] * 4
MARKS = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>",
         "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>", "<think>", "</think>"]


def bpe(kind):
    byte_level = kind.startswith("bytes")
    tokenizer = Tokenizer(models.BPE(unk_token=None if byte_level else "<unk>", byte_fallback=False))
    alphabet = []
    if byte_level:
        prefix = kind == "bytes-prefix"
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    elif kind == "llama-2":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind)
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=MARKS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def marked(template, mark):
    return template.replace("[[", "{% generation %}" if mark else "").replace("]]", "{% endgeneration %}" if mark else "")


ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
# In [[ ]] is what the assistant says.
TEMPLATES = {
    "inst": ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '### User:\n' + m['content'] + '\n' }}{% else %}{{ '### Assistant:\n' }}"
             "[[{{ m['content'] + eos_token }}]]{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}", "<s>", "</s>"),
    "chatml": ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}[[{{ m['content'] + '<|im_end|>' }}]]{{ '\n' }}"
               "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}" + ASK, None, "<|im_end|>"),
    "chatml-other-end": None,
    "default-system": ("{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
                       "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}[[{{ m['content'] + '<|im_end|>' }}]]{{ '\n' }}"
                       "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}" + ASK, None, "<|im_end|>"),
    "headers": ("{% for m in messages %}{% if loop.index0 == 0 %}{{ bos_token }}{% endif %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
                "{% if m['role'] == 'assistant' %}[[{{ m['content'] | trim + '<|eot_id|>' }}]]{% else %}{{ m['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}", "<|begin_of_text|>", "<|eot_id|>"),
    "llama-2": ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}{% for m in messages %}{% if m['role'] == 'user' %}"
                "{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}{% else %}[[{{ ' ' + m['content'].strip() + ' ' + eos_token }}]]{% endif %}{% endfor %}",
                "<s>", "</s>"),
}
TEMPLATES["chatml-other-end"] = (TEMPLATES["chatml"][0], None, "<|endoftext|>")
# These are compared only with their marks: without, a text of its own is made of answers that are written otherwise later.
MARKED = {
    "think": ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% set c = m['content'] %}"
              "{% if '</think>' in c and not loop.last %}{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
              "[[{{ c + '<|im_end|>' }}]]{{ '\n' }}{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}" + ASK, None, "<|im_end|>"),
    "trimmed": ("{%- for m in messages %}\n{% if m['role'] == 'assistant' %}\n    {{- 'A:' }}\n    [[\n    {{- ' ' + m['content'] }}\n    ]]\n"
                "{{- '|' }}{% else %}\n    {{- m['role'] + ': ' + m['content'] }}\n{% endif %}{% endfor %}", None, "</s>"),
}
# What else a line may hold, and messages with more than a text.
FIELDS = ("{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['name'] %}{{ m['name'] + ': ' }}{% endif %}"
          "{% if m['role'] == 'assistant' %}[[{% if m['reasoning_content'] %}{{ '<think>' + m['reasoning_content'] + '</think>' }}{% endif %}"
          "{% if m['content'] is string %}{{ m['content'] }}{% endif %}{% for call in m['tool_calls'] or [] %}{{ call['function'] | tojson }}{% endfor %}"
          "{{ '<|im_end|>' }}]]{{ '\n' }}{% elif m['content'] is string %}{{ m['content'] + '<|im_end|>\n' }}"
          "{% else %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}" + ASK, None, "<|im_end|>")


def talk(*turns):
    return [{"role": role, "content": content} for role, content in zip(["user", "assistant"] * len(turns), turns)]


TALKS = {
    "two": talk("def add(a, b):", "return value", "and", "more"),
    "spaces": talk("  x  ", "  indented\n", "q", "y  "),
    "marks": talk("what is <|im_end|>?", "it is <|im_end|> a mark", "héllo 世界", "日本語"),
    "unanswered": talk("Hi", "Hello", "Bye"),
    "begins": [{"role": "assistant", "content": "Hello there"}] + talk("x", "y"),
    "twice": talk("a", "b") + [{"role": "assistant", "content": "c"}],
    "empty": talk("a", "", "b", "foo"),
}
THINKS = talk("2+2", "<think>\nadd\n</think>\n\n4", "3+3", "<think>\nagain\n</think>\n\n6")
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2.5, None]}}}
RICH = {
    "messages": [
        {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "foo"}, {"type": "text", "text": " bar"}]},
        {"role": "assistant", "content": None, "reasoning_content": "how", "tool_calls": [CALL]},
        {"role": "tool", "name": "add", "content": "3"},
        {"role": "assistant", "content": "Bye"},
    ],
    "tools": [{"type": "function", "function": {"name": "add", "description": "<a> & é", "parameters": {"type": "object"}}}],
}


def document(tokenizer, ids, mask):
    """The document of these tokens: to the last that is learnt, and the end."""
    last = max(at for at, learnt in enumerate(mask) if learnt)
    ids, mask = list(ids[: last + 1]), list(mask[: last + 1])
    if ids[-1] != tokenizer.eos_token_id:
        ids, mask = ids + [tokenizer.eos_token_id], mask + [1]
    return {"ids": ids, "mask": mask}


def sharegpt(messages):
    names = {"user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names.get(m["role"], m["role"]), "value": m["content"]} for m in messages]}


def trl(tokenizer, messages, out):
    """The same as a prompt and its completion: what TRL learns of it is what the assistant says after the prompt."""
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    # The end of what asks for an answer may be one token with its beginning.
    first = len(prompt) - (messages[-2]["role"] != "assistant")
    mask = [learnt * (at >= first) for at, learnt in enumerate(out["assistant_masks"])]
    return {"prompt": messages[:-1], "completion": messages[-1:]}, mask


def main(folder):
    cases = []
    for kind in ["always", "first", "never", "llama-2", "bytes", "bytes-prefix"]:
        base = bpe(kind)

        def saved(name, template, begin, end):
            path = os.path.join(folder, f"{kind}-{name}")
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, bos_token=begin, eos_token=end, unk_token="<unk>")
            tokenizer.chat_template = template
            tokenizer.save_pretrained(path)
            return tokenizer, path

        for name, (template, begin, end) in {**TEMPLATES, **MARKED, "fields": FIELDS}.items():
            talks = {"thinks": {"messages": THINKS}} if name == "think" else {talk: {"messages": messages} for talk, messages in TALKS.items()}
            if name == "fields":
                talks = {"rich": RICH}
            tokenizer, path = saved(name, marked(template, True), begin, end)
            bare = saved(f"{name}-bare", marked(template, False), begin, end)[1] if name in TEMPLATES or name == "fields" else None
            for talk_name, line in talks.items():
                out = tokenizer.apply_chat_template(line["messages"], tools=line.get("tools"), return_dict=True, return_assistant_tokens_mask=True)
                wanted = document(tokenizer, out["input_ids"], out["assistant_masks"])
                cases.append({"tokenizer": path, "line": line, "name": f"{kind} {name} {talk_name}", **wanted})
                if bare:
                    cases.append({"tokenizer": bare, "line": line, "name": f"{kind} {name} {talk_name} without marks", **wanted})
                if name == "fields":
                    continue
                same = [(sharegpt(line["messages"]), "ShareGPT", wanted)]
                if line["messages"][-1]["role"] == "assistant" and len(line["messages"]) > 1:
                    other, mask = trl(tokenizer, line["messages"], out)
                    same.append((other, "TRL", document(tokenizer, out["input_ids"], mask)))
                for other, form, wanted in same:
                    for path_of, marks in [(path, "marks"), (bare, "no marks")]:
                        if path_of:
                            cases.append({"tokenizer": path_of, "line": other, "name": f"{kind} {name} {talk_name} {form} {marks}", **wanted})
        tokenizer, path = saved("none", None, "<s>", "</s>")
        for prompt, response in [("def add(a, b):", "\n    return a + b"), ("x =", " 1 + y"), ("foo", "bar baz"), ("Hi", "日本語")]:
            out = tokenizer(prompt + response, add_special_tokens=False, return_offsets_mapping=True)
            mask = [int(end > len(prompt)) for _, end in out["offset_mapping"]]
            wanted = document(tokenizer, out["input_ids"], mask)
            for key in ["response", "completion"]:
                cases.append({"tokenizer": path, "line": {"prompt": prompt, key: response}, "name": f"{kind} {prompt!r} {key} {response!r}", **wanted})
    print(json.dumps(cases))


main(sys.argv[1])
