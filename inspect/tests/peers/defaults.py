"""What the configurations of transformers' classes have where a config.json says nothing, as JSON."""

import json
import sys

from transformers import AutoConfig

KEYS = "rms_norm_eps", "max_position_embeddings", "original_max_position_embeddings"
kinds = sys.argv[1].split(",")
configs = {kind: AutoConfig.for_model(kind).to_dict() for kind in kinds}
print(json.dumps({kind: {key: config.get(key) for key in KEYS} for kind, config in configs.items()}))
