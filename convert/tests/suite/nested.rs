//! States of any nesting that PyTorch saved in a distributed checkpoint, written as `torch.save` would.

use ckpt_convert::{Control, Options, Plan, Target, write};
use ckpt_inspect::open;
use ckpt_kit::peers;

/// Random states, and what `dcp_to_torch_save` makes of each; and one as torchtitan saves it.
const WRITE: &str = r#"
import sys, io, random, torch
import torch.distributed.checkpoint as dcp
from pathlib import Path
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
root = Path(sys.argv[1])
def value(r, depth):
    k = r.random()
    if depth < 4 and k < .3: return {r.choice(["a", "b", "lr", "state", 0, 1, 2, 10, "x.y", "3", "4"]): value(r, depth + 1) for _ in range(r.randint(0, 4))}
    if depth < 4 and k < .55: return [value(r, depth + 1) for _ in range(r.randint(0, 4))]
    if depth < 4 and k < .6: return tuple(value(r, depth + 1) for _ in range(r.randint(0, 3)))
    if k < .85: return torch.randn(r.choice([(), (2,), (2, 3)]))
    return r.choice([1, 2.5, "s", None, True])
def has_tensor(v):
    if isinstance(v, torch.Tensor): return True
    return any(map(has_tensor, v.values() if isinstance(v, dict) else v)) if isinstance(v, (dict, list, tuple)) else False
t = lambda: torch.randn(3)
states = [{"ema": {"shadow_params": [t(), t()]}, "l": [t(), {"q": t()}, 5], "n": [[t()], [], [1, t()]]}]
for seed in range(150):
    r = random.Random(seed)
    states.append({k: value(r, 0) for k in r.sample(["model", "opt", "lst", "extra", "z"], r.randint(1, 4))})
buffer = io.BytesIO(); torch.save([1, 2.5], buffer)
titan = {"model.norm.weight": t(), "train_state": {"step": torch.tensor(7, dtype=torch.int32), "ntokens_seen": torch.tensor(99), "losses": buffer},
         "dataloader": {"dp_rank_0": b"abc"}, "lr_scheduler": {"last_epoch": 3}}
for number, state in enumerate(states + [titan]):
    name = "titan" if state is titan else str(number)
    try:
        dcp.save(state, checkpoint_id=root / name, no_dist=True)
        dcp_to_torch_save(root / name, root / f"{name}.theirs")
        if not has_tensor(torch.load(root / f"{name}.theirs", weights_only=False)): (root / f"{name}.theirs").unlink()
    except BaseException: pass
"#;

const COMPARE: &str = r#"
import sys, io, torch
from pathlib import Path
root = Path(sys.argv[1])
def differ(a, b, path=""):
    if isinstance(a, io.BytesIO):
        same = isinstance(b, io.BytesIO) and a.getvalue() == b.getvalue() and a.tell() == b.tell()
        return None if same else (path, a, b)
    # Within a value, tuples are read as lists, and keys of dicts as texts.
    if isinstance(a, tuple): a = list(a)
    if isinstance(a, dict) and isinstance(b, dict):
        a, b = ({str(key): v for key, v in d.items()} for d in (a, b))
    if type(a) is not type(b): return path, a, b
    if isinstance(a, torch.Tensor): return None if torch.equal(a, b) and a.dtype == b.dtype else (path, a, b)
    if isinstance(a, dict):
        if set(a) != set(b): return path, sorted(map(str, a)), sorted(map(str, b))
        return next((d for key in a if (d := differ(a[key], b[key], f"{path}.{key}"))), None)
    if isinstance(a, list):
        if len(a) != len(b): return path, a, b
        return next((d for i, (x, y) in enumerate(zip(a, b)) if (d := differ(x, y, f"{path}[{i}]"))), None)
    return None if a == b else (path, a, b)
for theirs in root.glob("*.theirs"):
    d = differ(torch.load(theirs, weights_only=False), torch.load(theirs.with_suffix(".ours"), weights_only=False))
    assert d is None, (theirs.stem, d)
print(len(list(root.glob("*.theirs"))))
"#;

#[test]
fn lists_keep_their_elements_and_their_places_and_buffers_are_buffers() {
    let Some(python) = peers::python(&["torch"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.code(WRITE, &[folder.path()]);
    let convert = |from: &str, options: &Options, to: &str| {
        let source = open(folder.path().join(from)).unwrap();
        let mut plan = Plan::new(&source, options).unwrap_or_else(|e| panic!("{from}: {e}"));
        let stop = Default::default();
        write(&mut plan, options, &folder.path().join(to), Control::new(&|_| (), &stop)).unwrap();
        plan.tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>()
    };
    let whole = Options::new(Target::Torch).with(|o| o.keep_optimizer = true);
    let mut written = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "theirs") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_string();
            convert(&name, &whole, &format!("{name}.ours"));
            written += 1;
        }
    }
    assert!(written > 80, "{written}");
    let compared: usize = python.code(COMPARE, &[folder.path()]).trim().parse().unwrap();
    assert_eq!(compared, written);
    // A trainer's counters are no weights.
    let weights = convert("titan", &Options::new(Target::SafeTensors), "titan.safetensors");
    assert_eq!(weights, ["model.norm.weight"]);
}
