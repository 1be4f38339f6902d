//! What `torch.distributed.checkpoint` saves besides blocks of tensors, what of it is lost with a file, and folders of other
//! trainers around what ranks saved.

use std::path::Path;

use ckpt_inspect::{
    Checkpoint, ErrorKind, Group, NoticeKind, OpenOptions, Options, describe, find, identity, open, open_with,
};
use ckpt_kit::fixtures::below;
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::{peers, pickle, torch};

/// Three processes save with PyTorch in forms of their own, and the folders of other trainers.
const WRITE: &str = r#"
import os, sys, json, random, shutil, torch, torch.distributed as dist, torch.multiprocessing as mp
import torch.distributed.checkpoint as dcp
from pathlib import Path
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor, Shard
from torch.distributed.checkpoint import FileSystemWriter, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import SerializationFormat

def worker(rank, world, root, port):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    torch.manual_seed(0)
    whole = torch.randn(18, 8)
    state = {"model": {"up.weight": distribute_tensor(whole, mesh, [Shard(0)]), "norm.weight": torch.ones(8)}}
    dcp.save(state, storage_writer=FileSystemWriter(root / "values"), planner=DefaultSavePlanner(flatten_state_dict=False))
    for form in ["plain", "same", "differ"]:
        # Without collectives each rank has a listing, and all that is replicated.
        options = dict(serialization_format=SerializationFormat.SAFETENSORS) if form != "plain" else {}
        own = {"model": {"up.weight": distribute_tensor(whole, mesh, [Shard(0)]), "norm.weight": torch.arange(64.)}}
        if form == "differ" and rank == 2: own["model"]["norm.weight"][33] = -1
        dcp.save(own, storage_writer=FileSystemWriter(root / f"own-{form}", **options), use_collectives=False)
    for form, step, loss in [("agreed", 7, 0.5), ("own", 7, rank * 0.5), ("counted", 7 + (rank == 2), rank * 0.5)]:
        # The same number that is none is the same, and random states are each rank's own.
        own = {"step": step, "loss": loss, "best": float("nan"), "rng": rank, "optimizer": {"param_groups": [{"lr": 0.1, "betas": (0.9, 0.95)}]}}
        dcp.save({"model": {"w": torch.ones(8)}, **own}, storage_writer=FileSystemWriter(root / f"values-{form}"), use_collectives=False)
    folder = root / "verl" / "global_step_3" / "actor"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state["model"], folder / f"model_world_size_{world}_rank_{rank}.pt")
    torch.save({"state": {}, "param_groups": []}, folder / f"optim_world_size_{world}_rank_{rank}.pt")
    torch.save({"lr": 0.1}, folder / f"extra_state_world_size_{world}_rank_{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()

if __name__ == "__main__":
    root = Path(sys.argv[1])
    mp.start_processes(worker, args=(3, root, random.randint(20000, 40000)), nprocs=3, start_method="fork")
    (root / "verl/global_step_3/actor/huggingface").mkdir()
    (root / "verl/global_step_3/actor/huggingface/config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 7}))
    torch.save({"epoch": 1}, root / "verl/global_step_3/data.pt")
    (root / "verl/latest_checkpointed_iteration.txt").write_text("3")
    shutil.copytree(root / "verl/global_step_3", root / "both/global_step_3")
    shutil.copytree(root / "verl/global_step_3/actor", root / "both/global_step_3/critic")
    from safetensors.torch import save_file
    (root / "accelerate").mkdir()
    for number, end in enumerate(["", "_1"]):
        save_file({"fc.weight": torch.randn(4, 4), "fc.bias": torch.randn(4)}, root / f"accelerate/model{end}.safetensors")
        torch.save({"state": {0: {"exp_avg": torch.randn(4, 4), "exp_avg_sq": torch.rand(4, 4)}}, "param_groups": [{"lr": 0.1}]}, root / f"accelerate/optimizer{end}.bin")
    torch.save({"step": 3}, root / "accelerate/random_states_0.pkl")
    packed = torch.randint(0, 255, (4, 4), dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    save = FileSystemWriter(root / "four", serialization_format=SerializationFormat.SAFETENSORS)
    dcp.save({"x": packed, "w": torch.randn(4, 4)}, storage_writer=save, no_dist=True)
"#;

fn told(checkpoint: &Checkpoint) -> Vec<(NoticeKind, &str)> {
    checkpoint.warnings.iter().map(|n| (n.kind, n.text.as_str())).collect()
}

fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    let mut names: Vec<&str> = checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn what_ranks_saved_in_other_forms_is_told_as_what_it_is() {
    let Some(python) = peers::python(&["torch", "numpy", "safetensors"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.code(WRITE, &[folder.path()]);
    let at = |name: &str| folder.path().join(name);
    parts_in_values_are_not_taken_for_tensors(&at("values"));
    copies_are_compared(folder.path());
    values_of_ranks_are_compared(folder.path());
    unfinished_parts_are_joined(folder.path());
    a_step_of_reinforcement_learning_is_one_checkpoint(folder.path());
    two_models_of_accelerate_are_one_checkpoint(&at("accelerate"));
    // Pairs of four bits, as the listing counts them.
    let four = open(at("four")).unwrap();
    assert_eq!((&four.damage, &four.tensor("x").unwrap().shape), (&None, &vec![4, 4]));
}

/// Saved without flattening, a state dict is one value, of which PyTorch keeps a rank's.
fn parts_in_values_are_not_taken_for_tensors(folder: &Path) {
    let checkpoint = open(folder).unwrap();
    let (_, text) = told(&checkpoint).into_iter().find(|(kind, _)| *kind == NoticeKind::OneRank).unwrap();
    assert!(text.contains("`model.up.weight`: [6, 8] of [18, 8]"), "{text}");
    let other = told(&checkpoint).into_iter().find(|(kind, _)| *kind == NoticeKind::Surplus);
    assert!(other.is_none_or(|(_, text)| text.contains("of other ranks")), "{other:?}");
}

fn copies_are_compared(root: &Path) {
    for form in ["plain", "same"] {
        let whole = open(root.join(format!("own-{form}"))).unwrap();
        assert_eq!((&whole.damage, told(&whole)), (&None, vec![]), "{form}");
    }
    let differ = open(root.join("own-differ")).unwrap();
    assert!(
        matches!(told(&differ)[..], [(NoticeKind::Contradiction, text)] if text.contains("from element 33 on")),
        "{:?}",
        told(&differ)
    );
    // What other ranks have too is told where it is gone.
    for form in ["plain", "same"] {
        for keep in [0, 1] {
            let copy = tempfile::tempdir().unwrap();
            copy_all(&root.join(format!("own-{form}")), copy.path());
            let file = copy.path().join("__2_0.distcp");
            let len = std::fs::metadata(&file).unwrap().len();
            std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(len * keep / 2).unwrap();
            let cut = open(copy.path()).unwrap();
            let said = format!("{:?} {:?}", cut.damage, told(&cut));
            assert!(said.contains("__2_0.distcp"), "{form} {keep}: {said}");
            assert!(cut.tensor("model.norm.weight").unwrap().damage.is_none());
        }
    }
    // The listing of a rank is what it writes last.
    let copy = root.join("unfinished");
    copy_all(&root.join("own-plain"), &copy);
    std::fs::remove_file(copy.join("__1.metadata")).unwrap();
    let unfinished = open(&copy).unwrap();
    let damage = unfinished.damage.as_ref().unwrap().to_string();
    assert!(damage.contains("__1.metadata, which rank 1 writes last"), "{damage}");
    assert!(
        told(&unfinished).iter().all(|(kind, _)| *kind != NoticeKind::Surplus),
        "{:?}",
        told(&unfinished)
    );
}

/// What all ranks count alike is a finding where it differs, and what each may keep for itself is told.
fn values_of_ranks_are_compared(root: &Path) {
    let of = |form: &str| open(root.join(format!("values-{form}"))).unwrap();
    let agreed = of("agreed");
    assert_eq!((&agreed.damage, told(&agreed)), (&None, vec![]));
    for (form, kind, text) in [
        (
            "own",
            NoticeKind::Unlike,
            "__1_0.distcp disagrees with __0_0.distcp in the value `loss`: 0.5 is not 0.0, as what each rank keeps for itself may; the latter's is used",
        ),
        (
            "counted",
            NoticeKind::Contradiction,
            "__2_0.distcp disagrees with __0_0.distcp in the value `step`: 8 is not 7; the latter's is used",
        ),
    ] {
        let found = of(form);
        assert!(told(&found).contains(&(kind, text)), "{form}: {:?}", told(&found));
        assert_eq!((&found.damage, found.step.as_ref().map(|(step, _)| *step)), (&None, Some(7)));
    }
    // Of a file that is cut short the values of others are used.
    let file = root.join("values-agreed/__0_0.distcp");
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(10).unwrap();
    let cut = of("agreed");
    assert_eq!(cut.step.as_ref().map(|(step, _)| *step), Some(7));
    assert!(format!("{:?}", told(&cut)).contains("__0_0.distcp is cut short"), "{:?}", told(&cut));
}

fn a_step_of_reinforcement_learning_is_one_checkpoint(root: &Path) {
    let step = root.join("verl/global_step_3");
    assert_eq!(find(&root.join("verl")).unwrap(), std::slice::from_ref(&step));
    let actor = open(&step).unwrap();
    assert_eq!(actor.damage, None);
    assert_eq!(names(&actor), ["norm.weight", "up.weight"]);
    assert_eq!(actor.tensor("up.weight").unwrap().shape, [18, 8]);
    assert_eq!(actor.step.as_ref().map(|(step, _)| *step), Some(3));
    for path in [step.clone(), step.join("actor")] {
        let config = open(&path).unwrap().model.config.clone().unwrap();
        assert!(format!("{config:?}").contains("num_hidden_layers"), "{config:?}");
    }
    let error = open(root.join("verl")).unwrap_err().to_string();
    assert!(error.contains("is a folder of 1 checkpoint"), "{error}");
    let both = open(root.join("both/global_step_3")).unwrap();
    assert_eq!(both.components, ["actor", "critic"]);
    assert_eq!(
        names(&both),
        ["actor.norm.weight", "actor.up.weight", "critic.norm.weight", "critic.up.weight"]
    );
}

fn two_models_of_accelerate_are_one_checkpoint(folder: &Path) {
    assert_eq!(find(folder).unwrap(), [folder.to_path_buf()]);
    let two = open(folder).unwrap();
    assert_eq!(two.components, ["", "model_1"]);
    assert_eq!(names(&two), ["fc.bias", "fc.weight", "model_1.fc.bias", "model_1.fc.weight"]);
    // Each optimizer is its own file's, also the second one's.
    let mut options = OpenOptions::default();
    options.companions = true;
    let beside = open_with(folder, &options).unwrap();
    for (file, prefix) in [("optimizer.bin", "optimizer"), ("optimizer_1.bin", "optimizer_1")] {
        let own = open(folder.join(file)).unwrap();
        assert_eq!(names(&own), ["state.0.exp_avg", "state.0.exp_avg_sq"]);
        for tensor in &own.tensors {
            let with = beside.tensor(&format!("{prefix}.{}", tensor.name)).unwrap();
            assert_eq!((tensor.group, with.group), (Group::Optimizer, Group::Optimizer));
            assert_eq!(with.bytes().unwrap(), tensor.bytes().unwrap(), "{file}");
        }
    }
    // Without what accelerate keeps beside them they are two.
    for file in ["optimizer.bin", "optimizer_1.bin", "random_states_0.pkl"] {
        std::fs::remove_file(folder.join(file)).unwrap();
    }
    assert_eq!(find(folder).unwrap().len(), 2);
}

/// Parts that are SafeTensors are joined by what they say themselves, and that they are all is not said.
fn unfinished_parts_are_joined(root: &Path) {
    let whole = open(root.join("own-plain")).unwrap();
    let folder = root.join("own-same");
    for rank in 0..3 {
        std::fs::remove_file(folder.join(format!("__{rank}.metadata"))).unwrap();
    }
    for path in [folder.clone(), folder.join("__1_0.distcp")] {
        let found = open(&path).unwrap();
        let damage = found.damage.as_ref().unwrap().to_string();
        assert!(damage.contains("saving was not finished"), "{damage}");
        assert_eq!(names(&found), names(&whole));
        for tensor in &whole.tensors {
            let own = found.tensor(&tensor.name).unwrap();
            assert_eq!((&own.shape, own.dtype), (&tensor.shape, tensor.dtype));
            assert_eq!(own.bytes().unwrap(), tensor.bytes().unwrap(), "{}", tensor.name);
        }
    }
}

/// Files that hold no tensors, and those that say what is beside them, stand for all of it.
#[test]
fn what_lies_beside_opens_what_it_is_of() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    copy_all(&data.join("distributed/step-7"), &at("mcore"));
    std::fs::write(at("mcore/common.pt"), torch::checkpoint(&[], &[("iteration", pickle::int(7))])).unwrap();
    std::fs::write(at("mcore/metadata.json"), r#"{"sharded_backend": "torch_dist"}"#).unwrap();
    copy_all(&data.join("ranks/zero3/global_step3"), &at("zero3/global_step3"));
    std::fs::write(at("zero3/latest"), "global_step3").unwrap();
    std::fs::create_dir(at("modules")).unwrap();
    std::fs::create_dir(at("modules/2_Dense")).unwrap();
    let file = SafeTensors::new().f32s("fc.weight", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    file.write(&at("modules/model.safetensors"));
    file.write(&at("modules/2_Dense/model.safetensors"));
    let modules = r#"[{"path": "", "type": "m.Transformer"}, {"path": "2_Dense", "type": "m.Dense"}]"#;
    std::fs::write(at("modules/modules.json"), modules).unwrap();
    std::fs::create_dir_all(at("pipeline/unet")).unwrap();
    file.write(&at("pipeline/unet/diffusion_pytorch_model.safetensors"));
    let index = r#"{"_class_name": "Pipeline", "unet": ["diffusers", "UNet2DConditionModel"]}"#;
    std::fs::write(at("pipeline/model_index.json"), index).unwrap();
    let universal = data.join("ranks/universal-zero3");
    for path in below(&universal, &[".pt"]) {
        let to = at("run/global_step3_universal").join(path.strip_prefix(&universal).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(path, to).unwrap();
    }
    std::fs::write(at("run/latest_universal"), "global_step3_universal").unwrap();
    let rank = at("megatron/iter_0000040/mp_rank_00");
    std::fs::create_dir_all(&rank).unwrap();
    std::fs::copy(data.join("ranks/sharded.pt"), rank.join("model_optim_rng.pt")).unwrap();
    std::fs::write(at("megatron/latest_checkpointed_iteration.txt"), "40").unwrap();
    for (file, of) in [
        ("pipeline/model_index.json", "pipeline"),
        ("run/latest_universal", "run/global_step3_universal"),
        ("megatron/latest_checkpointed_iteration.txt", "megatron/iter_0000040"),
        ("mcore/common.pt", "mcore"),
        ("mcore/metadata.json", "mcore"),
        ("zero3/latest", "zero3/global_step3"),
        ("modules/modules.json", "modules"),
    ] {
        let (found, whole) = (open(at(file)).unwrap(), open(at(of)).unwrap());
        assert_eq!(names(&found), names(&whole), "{file}");
        assert!(!found.tensors.is_empty(), "{file}");
        assert_eq!(identity(&at(file)), identity(&at(of)), "{file}");
    }
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Sparse tensors that are not the same, and nested ones of two kinds.
const ODD: &str = r#"
import sys, torch
from pathlib import Path
folder = Path(sys.argv[1])
w = torch.randn(8, 8)
at, values = torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.tensor([1.0, 2.0, 3.0])
coo = torch.sparse_coo_tensor(at, values, (5, 5)).coalesce()
ones = {"coo": coo, "turned": torch.sparse_coo_tensor(at.flip(0), values, (5, 5)), "wide": torch.sparse_coo_tensor(at, values, (5, 6)),
        "csr": coo.to_sparse_csr(), "csc": coo.to_sparse_csc(), "again": torch.sparse_coo_tensor(at, values, (5, 5))}
torch.save({"w": w, **ones}, folder / "sparse.pt")
parts = [torch.randn(3, 4), torch.randn(5, 4)]
torch.save({"w": w, "x": torch.nested.nested_tensor(parts)}, folder / "strided.pt")
torch.save({"w": w, "x": torch.nested.nested_tensor(parts, layout=torch.jagged)}, folder / "jagged.pt")
"#;

#[test]
fn hashes_of_sparse_tensors_are_of_all_that_they_are_and_nested_tensors_are_no_vectors() {
    let Some(python) = peers::python(&["torch"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.code(ODD, &[folder.path()]);
    let sparse = open(folder.path().join("sparse.pt")).unwrap();
    let record = describe(&sparse, Options::default().with(|o| o.sha256 = true), &|_| ());
    let hash = |name: &str| record.tensors.iter().find(|t| t.name == name).unwrap().sha256.clone().unwrap();
    assert_eq!(hash("coo"), hash("again"));
    let mut hashes: Vec<_> = ["coo", "turned", "wide", "csr", "csc"].map(hash).into();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 5);
    for name in ["strided.pt", "jagged.pt"] {
        let nested = open(folder.path().join(name)).unwrap();
        assert!(nested.tensor("x").is_err(), "{name}: {:?}", names(&nested));
        let notice = nested.warnings.iter().find(|n| n.kind == NoticeKind::Unread).unwrap();
        assert!(notice.text.contains("`x` is a nested tensor") && notice.tensors == ["x"], "{notice:?}");
        assert!(names(&nested).contains(&"x._values"), "{:?}", names(&nested));
    }
}

/// A matrix in every sparse layout, one that lists a block twice, and the matrix itself.
const LAYOUTS: &str = r#"
import sys, torch
dense = torch.where(torch.rand(6, 8) < 0.4, torch.randn(6, 8), 0)
bsr = dense.to_sparse_bsr((3, 2))
twice = torch.sparse_bsr_tensor(torch.tensor([0, 2]), torch.tensor([1, 1]), torch.ones(2, 3, 2), (3, 8), check_invariants=False)
odd = torch.sparse_bsr_tensor(torch.tensor([0, 1]), torch.tensor([1]), torch.ones(1, 3, 2), (3, 7), check_invariants=False)
torch.save({"coo": dense.to_sparse_coo(), "hybrid": dense.to_sparse(1), "csr": dense.to_sparse_csr(), "csc": dense.to_sparse_csc(),
            "bsr": bsr, "bsc": dense.to_sparse_bsc((2, 4)), "twice": twice, "odd": odd, "dense": dense}, sys.argv[1])
"#;

#[test]
fn every_sparse_layout_becomes_the_same_dense_matrix() {
    let Some(python) = peers::python(&["torch"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.pt");
    python.code(LAYOUTS, &[&path]);
    let sparse = open(&path).unwrap();
    let spread = |name: &str| sparse.spread(sparse.tensor(name).unwrap()).map(|bytes| bytes.into_owned());
    let dense = spread("dense").unwrap();
    for name in ["coo", "hybrid", "csr", "csc", "bsr", "bsc"] {
        assert_eq!(spread(name).unwrap(), dense, "{name}");
    }
    assert_eq!(spread("twice").unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(spread("odd").unwrap_err().kind, ErrorKind::Damaged);
}
