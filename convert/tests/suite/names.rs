//! The names of what is written: those that were saved, and no more of them is taken than the key of a dict.

use ckpt_convert::{Control, Options, Plan, Target, verify, write};
use ckpt_inspect::open;
use ckpt_kit::peers;

/// State dicts as people save them, with the names of the networks in them beside each: flat files, distributed checkpoints
/// and dicts of dicts.
const WRITE: &str = r#"
import sys, json, torch
import torch.distributed.checkpoint as dcp
from pathlib import Path
from safetensors.torch import save_file
folder = Path(sys.argv[1])
torch.manual_seed(0)
t = lambda: torch.randn(4, 4)
wanted = {}
PARTS = ["net", "network", "module", "model", "generator", "discriminator", "student", "teacher", "ema", "model_ema",
         "params", "weights", "state_dict", "model_state_dict", "optimizer"]
for part in PARTS:
    sd = {f"{part}.a.weight": t(), f"{part}.b.bias": torch.randn(4), "head.weight": t()}
    torch.save(sd, folder / f"flat-{part}.pt")
    save_file(sd, folder / f"flat-{part}.safetensors")
    dcp.save(sd, checkpoint_id=folder / f"flat-{part}-dcp", no_dist=True)
    for end in [".pt", ".safetensors", "-dcp"]:
        wanted[f"flat-{part}{end}"] = sorted(sd)
    if part == "optimizer":
        continue
    # A module of that name is all that there is.
    all_in = {f"{part}.a.weight": t(), f"{part}.b.weight": t()}
    torch.save(all_in, folder / f"all-{part}.pt")
    wanted[f"all-{part}.pt"] = sorted(all_in)
    # The same as the key of a dict, beside what trainers keep.
    inner = {"a.weight": t(), f"{part}.b.weight": t()}
    kept = {part: inner, "epoch": 3, "loss": torch.tensor(0.5), "optimizer": {"state": {0: {"exp_avg": t()}}, "param_groups": []}}
    torch.save(kept, folder / f"keyed-{part}.pt")
    dcp.save({part: inner}, checkpoint_id=folder / f"keyed-{part}-dcp", no_dist=True)
    wanted[f"keyed-{part}.pt"] = sorted(inner) + ["loss"]
    wanted[f"keyed-{part}-dcp"] = sorted(inner)
pairs = [("generator", "discriminator"), ("student", "teacher"), ("model", "ema"), ("net", "head")]
for one, other in pairs:
    flat = {f"{one}.a.weight": t(), f"{other}.a.weight": t()}
    name = f"{one}-{other}"
    save_file(flat, folder / f"{name}.safetensors")
    torch.save({one: {"a.weight": t()}, other: {"a.weight": t()}, "epoch": 3}, folder / f"{name}.pt")
    dcp.save(flat, checkpoint_id=folder / f"{name}-dcp", no_dist=True)
    # A network and its average are not written as one model.
    for end in [".safetensors", "-dcp"] + ([".pt"] if other != "ema" else []):
        wanted[name + end] = sorted(flat)
lightning = {"state_dict": {"net.a.weight": t(), "head.weight": t()}, "epoch": 1, "loops": {},
             "callbacks": {"EarlyStopping{'monitor': 'loss'}": {"best_score": torch.tensor(1.5), "wait_count": 2}}}
torch.save(lightning, folder / "lightning.pt")
wanted["lightning.pt"] = ["head.weight", "net.a.weight", "callbacks.EarlyStopping{'monitor': 'loss'}.best_score"]
print(json.dumps(wanted))
"#;

/// Each file that was made has the values that PyTorch reads under the same names, less the key of a dict.
const READ: &str = r#"
import sys, json, torch, numpy
from pathlib import Path
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
folder = Path(sys.argv[1])
def flat(value, path):
    if isinstance(value, torch.Tensor): yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items(): yield from flat(inner, f"{path}.{key}" if path else str(key))
count = 0
for made in folder.glob("made/*.safetensors"):
    source = folder / made.name.removesuffix(".safetensors")
    if source.is_dir():
        dcp_to_torch_save(source, folder / "scratch.bin")
        source = folder / "scratch.bin"
    whole = load_file(source) if source.name.endswith(".safetensors") else torch.load(source, weights_only=False)
    saved = dict(flat(whole, ""))
    for name, value in load_file(made).items():
        known = [n for n, other in saved.items() if (n == name or n.endswith("." + name)) and torch.equal(other, value)]
        assert len(known) == 1, (made, name, list(saved))
    assert sorted(load_file(made)) == sorted(numpy.load(made.with_suffix(".npz")).files), made
    count += 1
print(count)
"#;

#[test]
fn names_are_those_that_were_saved() {
    let Some(python) = peers::python(&["torch", "numpy", "safetensors"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let wanted = peers::json(&python.code(WRITE, &[folder.path()]));
    let wanted = wanted.as_object().unwrap();
    assert!(wanted.len() > 80, "{wanted:?}");
    std::fs::create_dir(at("made")).unwrap();
    for (file, names) in wanted {
        let mut names: Vec<&str> = names.as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        names.sort_unstable();
        let outputs = [
            (format!("made/{file}.safetensors"), Target::SafeTensors),
            (format!("made/{file}.npz"), Target::Npz),
            (format!("made/{file}-hf"), Target::Hf { packed: false }),
        ];
        let source = open(at(file)).unwrap();
        for (to, target) in outputs {
            let options = Options::new(target);
            let mut plan = Plan::new(&source, &options).unwrap_or_else(|e| panic!("{file}: {e}"));
            let stop = Default::default();
            write(&mut plan, &options, &at(&to), Control::new(&|_| (), &stop)).unwrap();
            let made = open(at(&to)).unwrap();
            let mut found: Vec<&str> = made.tensors.iter().map(|t| t.name.as_str()).collect();
            found.sort_unstable();
            assert_eq!(found, names, "{file} {target:?}");
            assert!(verify(&source, &made).unwrap().agrees(), "{file} {target:?}");
        }
    }
    let read: usize = python.code(READ, &[folder.path()]).trim().parse().unwrap();
    assert_eq!(read, wanted.len());
}

/// Names that a model's tensors have are found under what wraps all of them, and where that is a part of some they stay.
#[test]
fn a_wrapper_around_all_names_is_none_where_it_is_around_some() {
    let folder = tempfile::tempdir().unwrap();
    let named = |names: &[&str], target| {
        let file = folder.path().join("names.safetensors");
        let start = ckpt_kit::safetensors::SafeTensors::new();
        names.iter().fold(start, |file, name| file.f32s(name, &[2, 2], &[1.0, 2.0, 3.0, 4.0])).write(&file);
        let source = open(&file).unwrap();
        let plan = Plan::new(&source, &Options::new(target).with(|o| o.allow_incomplete = true))?;
        let mut names: Vec<String> = plan.tensors.iter().map(|t| t.name.clone()).collect();
        names.sort_unstable();
        Ok::<_, ckpt_convert::Error>(names)
    };
    let hf = Target::Hf { packed: false };
    let up = "layers.0.mlp.up_proj.weight";
    let of = |before: &str| [format!("{before}.{up}"), format!("{before}.embed_tokens.weight")];
    for before in ["module", "net", "module.model", "state_dict.module"] {
        let [up, embed] = of(before);
        let names = named(&[&up, &embed], hf).unwrap();
        assert_eq!(names, ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"]);
        let mut kept = [up.clone(), embed.clone()];
        kept.sort_unstable();
        assert_eq!(named(&[&up, &embed], Target::SafeTensors).unwrap(), kept);
    }
    let [one, other] = ["student", "teacher"].map(|before| format!("{before}.{up}"));
    assert_eq!(named(&[&one, &other], hf).unwrap(), [one.clone(), other.clone()]);
    assert_eq!(named(&[&one, &other], Target::SafeTensors).unwrap(), [one, other]);
}
