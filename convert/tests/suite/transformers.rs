//! transformers computes the same of every model that is written, before and after. Needs a Python that has it, as the
//! [peers](super::peers) do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Options, Plan, Target, verify_written, write};
use ckpt_inspect::meaning::architecture::TABLE;
use ckpt_kit::{fixtures, peers};

const SCRIPT: &str = "transformers_peers.py";

fn convert(from: &Path, options: &Options, to: &Path) {
    let source = ckpt_inspect::open(from).unwrap();
    let mut plan = Plan::new(&source, options).unwrap();
    write(&mut plan, options, to, Control::new(&|_| (), &Default::default())).unwrap();
    assert!(verify_written(&plan, to).unwrap().agrees(), "{}", from.display());
}

fn gguf() -> Options {
    Options::new(Target::Gguf(Gguf::new(Quant::F32, Quant::F32)))
}

fn hf() -> Options {
    Options::new(Target::Hf { packed: false })
}

/// What llama.cpp's graphs of these architectures do not compute, so that no GGUF file is made of it.
const UNSAID: [&str; 8] = [
    "gemma2-llama3",
    "gemma3_text-biases",
    "gemma3_text-llama3",
    "olmo2-biases",
    "olmo2-llama3",
    "olmo2-tied",
    "qwen3_moe-llama3",
    "smollm3-llama3",
];

#[test]
fn transformers_computes_the_same_before_and_after() {
    let Some(python) = peers::python(&["torch", "transformers", "safetensors", "tokenizers"]) else { return };
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let [made, of_1bitllm, copied, back] = ["made", "1bitllm", "copied", "back"].map(at);
    for folder in [&made, &of_1bitllm, &copied, &back] {
        std::fs::create_dir(folder).unwrap();
    }
    // Every architecture that config.json has a name for.
    let kinds = TABLE.iter().filter_map(|architecture| architecture.model_types.first());
    let kinds: BTreeSet<_> = kinds.collect();
    let arguments = [PathBuf::from("make"), made.clone(), of_1bitllm.clone()];
    let made_by = arguments.into_iter().chain(kinds.into_iter().map(PathBuf::from));
    python.script("convert", SCRIPT, &made_by.collect::<Vec<_>>());
    let (mut count, mut rounding, mut refused) = (0, 0, Vec::new());
    for entry in std::fs::read_dir(&made).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap();
        let file = at("model.gguf");
        // transformers has the class of 1bitLLM under its own names only.
        let theirs = of_1bitllm.join(name);
        let source = if theirs.exists() { &theirs } else { &folder };
        let packed = name.to_string_lossy().contains("-packed");
        convert(source, &Options::new(Target::Hf { packed }), &copied.join(name));
        if packed || name.to_string_lossy().ends_with("-online") {
            // GGUF cannot say that weights are made ternary again and again, nor that activations are rounded.
            rounding += 1;
            continue;
        }
        let options = gguf().with(|o| o.force = true);
        if Plan::new(&ckpt_inspect::open(&folder).unwrap(), &options).is_ok_and(|mut plan| {
            write(&mut plan, &options, &file, Control::new(&|_| (), &Default::default())).is_ok()
        }) {
            convert(&folder, &options, &file);
            convert(&file, &hf(), &back.join(name));
            count += 1;
        } else {
            refused.push(name.to_string_lossy().into_owned());
        }
    }
    assert!(count > 4 * (TABLE.len() - 1), "only {count} models");
    assert_eq!(rounding, 9);
    refused.sort();
    assert_eq!(refused, UNSAID);
    for (copies, count) in [(&copied, count + rounding + refused.len()), (&back, count)] {
        let said = python.script("convert", SCRIPT, &[Path::new("compare"), &made, copies]);
        assert!(said.contains(&format!("{count} models")), "{said}");
    }
    // llama.cpp's own vocabularies and the ids that it gives.
    let vocabularies = fixtures::data("infer", "vocab");
    for name in ["gpt-2", "llama-bpe", "llama-spm"] {
        let options = gguf().with(|o| {
            (o.force, o.allow_incomplete) = (true, true);
            o.tokenizer = Some(vocabularies.join(format!("{name}.gguf")));
        });
        let (file, folder) = (at("model.gguf"), at(name));
        let wide = at("wide.safetensors");
        ckpt_kit::safetensors::SafeTensors::of(&wide_student()).write(&wide);
        convert(&wide, &options, &file);
        convert(&file, &hf().with(|o| o.allow_incomplete = true), &folder);
        let ids = vocabularies.join(format!("{name}.ids"));
        let arguments =
            [PathBuf::from("ids"), folder.join("tokenizer.json"), vocabularies.join("inputs.txt"), ids];
        let said = python.script("convert", SCRIPT, &arguments);
        assert!(said.contains("47 texts"), "{said}");
    }
}

/// A model with more ids than any of the vocabularies has tokens.
fn wide_student() -> Vec<ckpt_kit::tensor::Tensor> {
    ckpt_kit::student::Student { vocab: 8192, ..Default::default() }.drawn(0.05)
}
