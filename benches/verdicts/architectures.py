"""Architectures of transformers, small, at their initialisation and after some training steps; all are as they should be.

Most configurations take the sizes below; what an architecture calls otherwise stands in its line."""

import torch

import networks
from cases import ALL, ARCHITECTURES, Case

VOCABULARY, WIDTH = networks.VOCABULARY, 64
STEPS = 12

TEXT = dict(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
GROUPED = dict(TEXT, num_key_value_heads=2)
EXPERTS = dict(GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48)
PAIRED = dict(vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
              encoder_ffn_dim=128, decoder_ffn_dim=128, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
              decoder_start_token_id=1, forced_eos_token_id=None)
PICTURE = dict(hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8, num_labels=8)

# Class: sizes. The class's name says what it is trained on.
LINES = {
    "AfmoeForCausalLM": dict(EXPERTS, head_dim=16, num_dense_layers=1),
    "ApertusForCausalLM": GROUPED,
    "ArceeForCausalLM": GROUPED,
    "BloomForCausalLM": dict(vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=3, n_head=4),
    "CodeGenForCausalLM": dict(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=3, n_head=4, n_positions=64, rotary_dim=8),
    "CohereForCausalLM": GROUPED,
    "CTRLLMHeadModel": dict(vocab_size=VOCABULARY, n_embd=WIDTH, dff=128, n_layer=3, n_head=4, n_positions=64),
    "Exaone4ForCausalLM": dict(GROUPED, sliding_window=16),
    "FalconMambaForCausalLM": dict(vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=3, state_size=8),
    "Gemma3ForCausalLM": dict(GROUPED, head_dim=16, sliding_window=16),
    "GlmForCausalLM": dict(GROUPED, head_dim=16),
    "GPTBigCodeForCausalLM": dict(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=3, n_head=4, n_positions=64),
    "GPTJForCausalLM": dict(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=3, n_head=4, n_positions=64, rotary_dim=8),
    "GraniteForCausalLM": GROUPED,
    "HeliumForCausalLM": dict(GROUPED, head_dim=16),
    "MptForCausalLM": dict(vocab_size=VOCABULARY, d_model=WIDTH, n_layers=3, n_heads=4, max_seq_len=64),
    "NemotronForCausalLM": GROUPED,
    "OlmoForCausalLM": GROUPED,
    "OpenAIGPTLMHeadModel": dict(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=3, n_head=4, n_positions=64),
    "PersimmonForCausalLM": TEXT,
    "Phi3ForCausalLM": GROUPED,
    "Qwen3MoeForCausalLM": dict(EXPERTS, head_dim=16),
    "RecurrentGemmaForCausalLM": dict(GROUPED, lru_width=WIDTH, attention_window_size=16),
    "SmolLM3ForCausalLM": GROUPED,
    "Starcoder2ForCausalLM": GROUPED,
    "XGLMForCausalLM": dict(vocab_size=VOCABULARY, d_model=WIDTH, ffn_dim=128, num_layers=3, attention_heads=4, max_position_embeddings=64),
    "AlbertForMaskedLM": dict(TEXT, embedding_size=32),
    "ConvBertForMaskedLM": dict(TEXT, embedding_size=32),
    "DistilBertForMaskedLM": dict(vocab_size=VOCABULARY, dim=WIDTH, hidden_dim=128, n_layers=3, n_heads=4, max_position_embeddings=64),
    "EsmForMaskedLM": dict(TEXT, position_embedding_type="rotary"),
    "FNetForMaskedLM": dict(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=3, max_position_embeddings=64),
    "ModernBertForMaskedLM": dict(TEXT, global_attn_every_n_layers=2, local_attention=16, cls_token_id=1, sep_token_id=2),
    "MPNetForMaskedLM": TEXT,
    "NystromformerForMaskedLM": TEXT,
    "RobertaForMaskedLM": TEXT,
    "SqueezeBertForMaskedLM": dict(TEXT, embedding_size=WIDTH),
    "BartForConditionalGeneration": PAIRED,
    "M2M100ForConditionalGeneration": PAIRED,
    "MarianMTModel": dict(PAIRED, decoder_vocab_size=VOCABULARY),
    "PegasusForConditionalGeneration": PAIRED,
    "UMT5ForConditionalGeneration": dict(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0),
    "BeitForImageClassification": dict(PICTURE, use_relative_position_bias=True),
    "ConvNextV2ForImageClassification": dict(depths=[1, 1, 2, 1], hidden_sizes=[16, 32, 48, 64], num_labels=8),
    "EfficientNetForImageClassification": dict(width_coefficient=0.25, depth_coefficient=0.4, image_size=32, hidden_dim=320, num_labels=8),
    "FocalNetForImageClassification": dict(image_size=32, embed_dim=16, depths=[1, 1, 1, 1], num_labels=8),
    "PoolFormerForImageClassification": dict(depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 48, 64], num_labels=8),
    "PvtV2ForImageClassification": dict(image_size=32, depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 48, 64], num_attention_heads=[1, 2, 2, 4], num_labels=8),
    "RegNetForImageClassification": dict(embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], groups_width=8, num_labels=8),
    "ResNetForImageClassification": dict(embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], num_labels=8),
    "SegformerForImageClassification": dict(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4], num_labels=8),
    "Swinv2ForImageClassification": dict(image_size=32, patch_size=4, embed_dim=24, depths=[1, 1, 2], num_heads=[2, 2, 4], window_size=4, num_labels=8),
    "ViTMSNForImageClassification": PICTURE,
}


def build(name):
    """A model of that class at its initialisation."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = getattr(transformers, name)
    return model(model.config_class(**LINES[name]))


def train(model, name):
    """Some steps on sequences or pictures."""

    def loss():
        if "Image" in name:
            picture, label = networks.pictures(4, size=32)
            return model(pixel_values=picture, labels=label).loss
        ids = 3 + networks.sequences(4, 20, VOCABULARY - 3)
        return model(input_ids=ids, labels=ids).loss

    networks.fit(model, loss, STEPS, torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01))


def _case(name, trained):
    def make(folder):
        model = build(name)
        if trained:
            train(model, name)
        model.save_pretrained(folder)

    what = f"after {STEPS} steps" if trained else "at its initialisation"
    label = f"{name}-{'trained' if trained else 'fresh'}"
    return Case(label, ARCHITECTURES, False, "after some steps" if trained else "at initialisation", f"{name} of transformers {what}", make)


ALL.extend(_case(name, trained) for name in LINES for trained in (False, True))
