//! What config.json and a layer's own parts promise, of networks that transformers and PyTorch made.

use ckpt_kit::peers;
use serde_json::Value;

use crate::program;

/// Folders whose config.json says what the weights do not, each beside one whose does.
const CONFIGURED: &str = r#"
import sys, json, torch
from pathlib import Path
from transformers import MambaConfig, MambaForCausalLM, Mamba2Config, Mamba2ForCausalLM, Zamba2Config, Zamba2ForCausalLM
folder = Path(sys.argv[1])
torch.manual_seed(0)
small = dict(vocab_size=200, hidden_size=64, num_hidden_layers=3)
nets = {
    "mamba": MambaForCausalLM(MambaConfig(**small)),
    "mamba2": Mamba2ForCausalLM(Mamba2Config(**small, num_heads=8, head_dim=16, state_size=16, n_groups=1)),
    "zamba2": Zamba2ForCausalLM(Zamba2Config(**dict(small, num_hidden_layers=4), num_attention_heads=4, num_key_value_heads=4,
        intermediate_size=128, max_position_embeddings=64, mamba_d_state=8, n_mamba_heads=8, use_mamba_kernels=False,
        num_mem_blocks=1, layers_block_type=["mamba", "hybrid", "mamba", "mamba"])),
}
for name, net in nets.items():
    for change in ("none", "hidden_size", "num_hidden_layers"):
        at = folder / f"{name}-{change}"
        net.save_pretrained(at)
        config = json.loads((at / "config.json").read_text())
        if change != "none":
            config[change] *= 2
            (at / "config.json").write_text(json.dumps(config))
"#;

#[test]
fn a_width_and_a_number_of_layers_are_promised_whatever_the_architecture() {
    let Some(python) = peers::python(&["torch", "transformers"]) else { return };
    let program = program().in_its_folder();
    python.code(CONFIGURED, &[program.folder()]);
    for name in ["mamba", "mamba2", "zamba2"] {
        program.run(&["gate", &format!("{name}-none")]).exits(0);
        for key in ["hidden_size", "num_hidden_layers"] {
            program.run(&["gate", &format!("{name}-{key}")]).exits(1).says(&[key]);
        }
    }
}

/// A fresh encoder of PyTorch's, whole and with faults that only what stands beside a weight shows.
const ENCODERS: &str = r#"
import sys, torch
from pathlib import Path
folder = Path(sys.argv[1])
torch.manual_seed(0)
def made(layers):
    net = torch.nn.Module()
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    net.encoder = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    net.head = torch.nn.Linear(64, 20)
    return {key: value.clone() for key, value in net.state_dict().items()}
def save(net, name): torch.save(net, folder / f"{name}.pt")
save(made(1), "whole")
for layers, at in ((1, 0), (2, 0), (2, 1), (3, 0), (3, 2)):
    net = made(layers)
    name = f"encoder.layers.{at}.linear1.weight"
    net[name] = net[name].t().contiguous()
    save(net, f"turned-{layers}-{at}")
net = made(2)
net["head.weight"].zero_()
save(net, "head")
net["head.bias"].zero_()
save(net, "head-and-bias")
"#;

#[test]
fn a_bias_shows_what_its_matrix_was() {
    let Some(python) = peers::python(&["torch"]) else { return };
    let program = program().in_its_folder();
    python.code(ENCODERS, &[program.folder()]);
    program.run(&["gate", "whole.pt"]).exits(0);
    for (layers, at) in [(1, 0), (2, 0), (2, 1), (3, 0), (3, 2)] {
        let found: Value =
            program.run(&["gate", &format!("turned-{layers}-{at}.pt"), "--format", "json"]).exits(1).json();
        let name = format!("encoder.layers.{at}.linear1.weight has shape [64, 128]");
        assert!(found.to_string().contains(&name), "{found}");
    }
    // A last layer that begins at zero is drawn with no bias, or begins with one at zero.
    program.run(&["gate", "head.pt"]).exits(1).says(&["head.weight"]);
    program.run(&["gate", "head-and-bias.pt"]).exits(0);
}
