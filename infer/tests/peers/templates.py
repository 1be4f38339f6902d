"""Prints as JSON what transformers renders of each of the templates in the JSON file that is given, for the conversation in
it; null where it refuses."""

import json
import sys

from transformers.utils.chat_template_utils import render_jinja_template

with open(sys.argv[1], encoding="utf-8") as file:
    asked = json.load(file)
out = []
for template in asked["templates"]:
    try:
        rendered, _ = render_jinja_template(
            conversations=[asked["messages"]], chat_template=template, tools=None, documents=None,
            add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
        out.append(rendered[0])
    except Exception as error:
        print(type(error).__name__, error, file=sys.stderr)
        out.append(None)
print(json.dumps(out))
