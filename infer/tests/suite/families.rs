//! Small models of every family, with every setting that changes what they compute, against transformers: logits, and the
//! tokens that follow, beyond windows and the lengths that rotary scaling begins at. Then the same out of GGUF and back.
//! Needs a Python with transformers (`peers/families.py`).

use std::collections::BTreeSet;
use std::path::Path;

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Options, Plan, Target, verify, verify_written, write};
use ckpt_infer::{
    Cache, Generator, Kernel, KvType, LoadOptions, Logits, Model, Pool, RopeScaling, Runner, SampleOptions,
    Sequence, Stop, WhenFull,
};
use ckpt_inspect::meaning::architecture::TABLE;
use ckpt_kit::peers;

const SCRIPT: &str = "families.py";

/// What transformers computes.
pub(crate) struct Truth {
    ids: Vec<u32>,
    logits: Vec<f32>,
    /// The likeliest ids after these, one after another.
    greedy: Vec<u32>,
}

impl Truth {
    pub(crate) fn of(path: &Path) -> Truth {
        let file = ckpt_inspect::open(path).unwrap();
        let ids = |name: &str| {
            let ids = file.view::<i32>(file.tensor(name).unwrap()).unwrap();
            ids.iter().map(|&id| id as u32).collect()
        };
        let logits = file.values(file.tensor("logits").unwrap()).unwrap();
        Truth { ids: ids("ids"), logits: logits.to_vec(), greedy: ids("greedy") }
    }
}

/// The model in `file` computes `truth`: in one step, in several, token by token, and the tokens that follow.
pub(crate) fn agrees(name: &str, file: &Path, truth: &Truth) {
    for kernel in Kernel::available() {
        let pool = Pool::new(2);
        let options = LoadOptions::default().with(|o| o.kernel = Some(kernel));
        let model = Model::open(file, &options, &pool).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(model.assumed(), [], "{name}");
        let mut runner = Runner::new(&model, &pool);
        let largest = truth.logits.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        for step in [truth.ids.len(), 7, 1] {
            let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
            let mut logits = Vec::new();
            for ids in truth.ids.chunks(step) {
                let sequence = Sequence::new(ids, &mut cache, Logits::All);
                logits.extend_from_slice(runner.forward(&mut [sequence]).unwrap());
            }
            assert_eq!(logits.len(), truth.logits.len(), "{name}");
            // Before a text was long, it had the frequencies of short ones.
            let short = match &model.config().rope_scaling {
                RopeScaling::LongRope { original_max_position_embeddings: Some(original), .. }
                    if step < truth.ids.len() && truth.ids.len() > *original as usize =>
                {
                    *original as usize
                }
                _ => 0,
            };
            let pairs = logits.iter().zip(&truth.logits).enumerate();
            for (at, (got, want)) in pairs.skip(short * model.config().vocab_size) {
                let near = (got - want).abs() <= 2e-5 * largest;
                assert!(near, "{name} on {} by {step}: {got} for {want}, logit {at}", kernel.name());
            }
        }
        let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
        let stop = Stop::after(truth.greedy.len());
        let mut generator = Generator::new(&mut runner, &mut cache, &SampleOptions::default(), stop);
        let outcome = generator.run(&truth.ids, &mut |_| true).unwrap();
        assert!(truth.greedy.len() >= 64);
        assert_eq!(outcome.ids, truth.greedy, "{name} on {}", kernel.name());
    }
}

fn converted(from: &Path, target: Target, to: &Path) -> Result<(), String> {
    let source = ckpt_inspect::open(from).unwrap();
    let options = Options::new(target);
    let mut plan = Plan::new(&source, &options).map_err(|e| e.to_string())?;
    write(&mut plan, &options, to, Control::new(&|_| (), &Default::default())).map_err(|e| e.to_string())?;
    let report = verify_written(&plan, to).unwrap();
    assert!(report.agrees(), "{}: {:?}", from.display(), report.failures().next());
    Ok(())
}

/// Models that GGUF cannot describe, and a part of the reason.
const UNSAID: [(&str, &str); 12] = [
    ("llama-gelu", "compute `gelu`"),
    ("llama-gelu-tanh", "compute `gelu_pytorch_tanh`"),
    ("qwen2-window-later", "only some of its layers"),
    ("qwen3-window-types", "only some of its layers"),
    ("ministral-types", "only some of its layers"),
    ("smollm3-window", "each 4th"),
    ("smollm3-types", "only some of its layers"),
    ("olmo2-biases", "biases"),
    ("gemma2-biases", "without soft caps"),
    ("gemma3-types", "compute `gelu`"),
    ("gemma3-long", "`longrope`"),
    ("qwen3moe-sums", "norm_topk_prob"),
];

/// Models whose windows, biases or ends of YaRN's passage llama.cpp does not read, of which a note tells; and one whose rotary divisors it chooses
/// by the context that is asked for, and not by the text.
const UNREAD: [&str; 8] = [
    "phi3",
    "qwen3-yarn",
    "smollm3",
    "smollm3-window-all",
    "mistral-window",
    "mixtral-window",
    "phi3-window",
    "qwen2-window",
];

/// Needs xllamacpp too, which `.ci/peers families` installs.
#[test]
#[ignore = "fetches llama.cpp: bash .ci/peers families"]
fn llama_cpp_computes_what_transformers_does_of_our_files() {
    let packages = ["torch", "transformers", "safetensors", "tokenizers", "xllamacpp"];
    let Some(python) = peers::python(&packages) else { return };
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    std::fs::create_dir(at("made")).unwrap();
    python.script("infer", SCRIPT, &[Path::new("make"), &at("made")]);
    let mut arguments = vec![at("made-truth")];
    for entry in std::fs::read_dir(at("made")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap();
        let file = at(&format!("{name}.gguf"));
        let f32s = Gguf::new(Quant::F32, Quant::F32);
        if !UNREAD.contains(&name)
            && converted(&folder.join("model.safetensors"), Target::Gguf(f32s), &file).is_ok()
        {
            arguments.push(file);
        }
    }
    let count = arguments.len() - 1;
    assert!(count >= 10, "only {count} models");
    let said = python.script("infer", "llama_cpp.py", &arguments);
    assert!(said.contains(&format!("of {count} models")), "{said}");
}

/// What config.json says neither of ties nor of the base of rotary positions is as in each class; where the head is then a
/// tensor of its own, a model without it is refused. transformers names the same tensor as missing.
#[test]
fn what_a_configuration_does_not_say_is_what_its_class_has() {
    let Some(python) = peers::python(&["torch", "transformers", "safetensors", "tokenizers"]) else { return };
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    std::fs::create_dir(at("made")).unwrap();
    python.script("infer", SCRIPT, &[Path::new("lacking"), &at("made")]);
    let mut untied = 0;
    for entry in std::fs::read_dir(at("made")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap();
        agrees(name, &folder, &Truth::of(&at("made-truth").join(format!("{name}.safetensors"))));
        let headless = at("made-headless").join(name);
        if !headless.exists() {
            continue;
        }
        untied += 1;
        let refused = Model::open(&headless, &LoadOptions::default(), &Pool::new(1)).unwrap_err().to_string();
        assert!(refused.contains("tensor `lm_head.weight` is missing"), "{name}: {refused}");
        for target in [Target::Hf { packed: false }, Target::SafeTensors, Target::Gguf(Gguf::default())] {
            let why = converted(&headless, target, &at("copy")).unwrap_err();
            assert!(why.contains("the model is incomplete: `lm_head.weight` is missing"), "{name}: {why}");
        }
    }
    assert_eq!(untied, 11);
}

#[test]
fn every_family_computes_what_transformers_does() {
    let Some(python) = peers::python(&["torch", "transformers", "safetensors", "tokenizers", "gguf"]) else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let (made, back) = (at("made"), at("back"));
    for folder in [&made, &back] {
        std::fs::create_dir(folder).unwrap();
    }
    python.script("infer", SCRIPT, &[Path::new("make"), &made]);
    let (mut refused, mut families) = (BTreeSet::new(), BTreeSet::new());
    let mut folders: Vec<_> = std::fs::read_dir(&made).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    for folder in &folders {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let truth = Truth::of(&at("made-truth").join(format!("{name}.safetensors")));
        agrees(name, &folder.join("model.safetensors"), &truth);
        let source = ckpt_inspect::open(folder).unwrap();
        families.insert(source.model.family().unwrap().name);

        let file = at(&format!("{name}.gguf"));
        let f32s = Gguf::new(Quant::F32, Quant::F32);
        if let Err(why) = converted(&folder.join("model.safetensors"), Target::Gguf(f32s), &file) {
            let (_, reason) = UNSAID.iter().find(|(unsaid, _)| *unsaid == name).expect(&why);
            assert!(why.contains(reason), "{name}: {why}");
            refused.insert(name.to_string());
            continue;
        }
        agrees(&format!("{name} as GGUF"), &file, &truth);
        let copy = back.join(name);
        converted(&file, Target::Hf { packed: false }, &copy).unwrap();
        agrees(&format!("{name} and back"), &copy, &truth);
        let gguf = ckpt_inspect::open(&file).unwrap();
        let report = verify(&source, &gguf).unwrap();
        assert!(report.agrees(), "{name}: {:?} {:?}", report.missing, report.extra);
    }
    assert_eq!(refused.len(), UNSAID.len(), "{refused:?}");
    let named =
        folders.iter().map(|folder| at(&format!("{}.gguf", folder.file_name().unwrap().to_str().unwrap())));
    let written: Vec<_> =
        [Path::new("tables").to_path_buf()].into_iter().chain(named.filter(|file| file.exists())).collect();
    let said = python.script("infer", SCRIPT, &written);
    assert!(said.contains(&format!("{} files", folders.len() - refused.len())), "{said}");
    let said = python.script("infer", SCRIPT, &[Path::new("same"), &made, &back]);
    assert!(said.contains(&format!("{} models", folders.len() - refused.len())), "{said}");
    let all = TABLE.iter().map(|a| a.name);
    let others = ["bitnet-student", "bitnet", "bitnet-silu"];
    let wanted: BTreeSet<_> = all.filter(|name| !others.contains(name)).collect();
    assert_eq!(families, wanted, "every family is compared here, or with its own truth");
}

/// The page on models has a row for each architecture of the table, in its order.
#[test]
fn the_page_on_models_lists_the_table() {
    let page = std::fs::read_to_string(ckpt_kit::fixtures::root().join("docs/models.md")).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    let quoted = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let wanted: Vec<String> = TABLE
        .iter()
        .map(|a| format!("| {} | {} | {} | yes | yes", a.label, quoted(a.classes), quoted(a.gguf)))
        .collect();
    assert_eq!(rows.len(), wanted.len());
    for (row, wanted) in rows.iter().zip(wanted) {
        assert!(row.starts_with(&wanted), "{row} is not of {wanted}");
        assert!(row.ends_with('|') && !row.contains("| |"), "{row}");
    }
}
