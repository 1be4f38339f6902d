//! Plain models of Hugging Face folders against the logits that transformers computes (`data/transformers_truth.py`).

use std::path::{Path, PathBuf};

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Note, Options, Plan, Target, write};
use ckpt_infer::compare::{self, Windows};
use ckpt_infer::{
    Cache, Error, Kernel, KvType, LoadOptions, Logits, Model, Pool, Runner, Sequence, TableType, WhenFull,
};
use ckpt_kit::safetensors::SafeTensors;

fn folder(name: &str) -> PathBuf {
    ckpt_kit::fixtures::data("infer", "transformers").join(name)
}

/// Logits of the model in `file`, all at once and token by token, on every instruction set, are those of `name`'s
/// truth.
fn agrees(name: &str, file: &Path) {
    let truth = ckpt_inspect::open(folder(name).join("truth.safetensors")).unwrap();
    let ids = truth.view::<i32>(truth.tensor("ids").unwrap()).unwrap();
    let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    let want = truth.values(truth.tensor("logits").unwrap()).unwrap();
    for kernel in Kernel::available() {
        let pool = Pool::new(2);
        let options = LoadOptions::default().with(|o| o.kernel = Some(kernel));
        let model = Model::open(file, &options, &pool).unwrap();
        assert_eq!(model.assumed(), [], "{name}");
        for step in [ids.len(), 1] {
            let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
            let mut runner = Runner::new(&model, &pool);
            let mut logits = Vec::new();
            for ids in ids.chunks(step) {
                let sequence = Sequence::new(ids, &mut cache, Logits::All);
                logits.extend_from_slice(runner.forward(&mut [sequence]).unwrap());
            }
            assert_eq!(logits.len(), want.len());
            let largest = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            for (at, (got, want)) in logits.iter().zip(&want).enumerate() {
                let off = (got - want).abs();
                assert!(
                    off <= 2e-5 * largest,
                    "{} on {}: {got} for {want}, logit {at}",
                    file.display(),
                    kernel.name()
                );
            }
        }
    }
}

/// Llama with Llama 3's rotary scaling and an untied head, with all biases, and with BitLinears, Qwen2 with its biases, Qwen3 in f16 with QK norms and tied
/// tables, and Mistral, whose window is shorter than the text.
#[test]
fn logits_agree_with_transformers() {
    for name in ["llama", "llama-biases", "llama-bitlinear", "qwen2", "qwen3", "mistral"] {
        agrees(name, &folder(name).join("model.safetensors"));
    }
}

/// The same from GGUF, and from the folder that is made from that.
#[test]
fn logits_agree_out_of_gguf_and_back() {
    for name in ["llama", "llama-biases", "qwen2", "qwen3", "mistral"] {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let convert = |from: &Path, target: Target, to: &Path| {
            let options = Options::new(target);
            let source = ckpt_inspect::open(from).unwrap();
            let mut plan = Plan::new(&source, &options).unwrap();
            write(&mut plan, &options, to, Control::new(&|_| (), &Default::default())).unwrap();
            let lost = |note: &Note| matches!(note, Note::Incomplete { .. } | Note::LeftOut { .. });
            assert!(!plan.notes.iter().any(lost), "{name}: {:?}", plan.notes);
        };
        let f32s = Gguf::new(Quant::F32, Quant::F32);
        convert(&folder(name).join("model.safetensors"), Target::Gguf(f32s), &at("model.gguf"));
        agrees(name, &at("model.gguf"));
        convert(&at("model.gguf"), Target::Hf { packed: false }, &at("back"));
        agrees(name, &at("back"));
        let [first, back] = [folder(name).join("model.safetensors"), at("back")].map(|path| {
            let mut config = ckpt_inspect::open(&path).unwrap().model_config().unwrap();
            // GGUF has it as f32.
            config.norm_eps = f64::from(config.norm_eps as f32);
            config
        });
        assert_eq!(first, back);
    }
}

/// A missing bias does not count as zero.
#[test]
fn a_model_without_its_biases_is_refused() {
    let place = tempfile::tempdir().unwrap();
    for file in ["model.safetensors", "config.json"] {
        std::fs::copy(folder("qwen3").join(file), place.path().join(file)).unwrap();
    }
    let config = std::fs::read_to_string(place.path().join("config.json")).unwrap();
    let config = config.replace("\"attention_bias\": false", "\"attention_bias\": true");
    std::fs::write(place.path().join("config.json"), config).unwrap();
    let refused = Model::open(place.path(), &LoadOptions::default(), &Pool::new(1)).unwrap_err();
    assert!(refused.to_string().contains("`layers.0.self_attn.q_proj.bias` is missing"), "{refused}");
}

/// transformers ignores biases of which config.json says nothing, and a GGUF file's would be added.
#[test]
fn biases_that_a_model_does_not_use_are_not_written_as_if_it_did() {
    let place = tempfile::tempdir().unwrap();
    std::fs::copy(folder("llama-biases").join("model.safetensors"), place.path().join("model.safetensors"))
        .unwrap();
    let config = std::fs::read_to_string(folder("llama-biases").join("config.json")).unwrap();
    let options = Options::new(Target::Gguf(Gguf::new(Quant::F32, Quant::F32)));
    for (key, named) in [("attention_bias", "self_attn.k_proj.bias"), ("mlp_bias", "mlp.down_proj.bias")] {
        let said = format!("\"{key}\": true");
        assert!(config.contains(&said));
        for instead in [format!("\"{key}\": false"), format!("\"not_{key}\": true")] {
            std::fs::write(place.path().join("config.json"), config.replace(&said, &instead)).unwrap();
            let source = ckpt_inspect::open(place.path()).unwrap();
            let why = match Plan::new(&source, &options) {
                Ok(mut plan) => {
                    let stop = Default::default();
                    write(&mut plan, &options, &place.path().join("x.gguf"), Control::new(&|_| (), &stop))
                        .unwrap_err()
                }
                Err(why) => why,
            };
            assert!(why.to_string().contains(&format!("`model.layers.0.{named}`")), "{why}");
            assert!(Model::open(place.path(), &LoadOptions::default(), &Pool::new(1)).is_err());
        }
    }
}

/// The tensors of the folder's model, called otherwise, beside its config.json.
fn renamed(name: &str, place: &Path, called: impl Fn(&str) -> String) {
    let source = ckpt_inspect::open(folder(name).join("model.safetensors")).unwrap();
    let mut file = SafeTensors::new();
    for tensor in &source.tensors {
        let bytes = source.tensor_bytes(tensor).unwrap();
        file = file.tensor(&called(&tensor.name), "F32", &tensor.shape, &bytes);
    }
    file.write(&place.join("model.safetensors"));
    std::fs::copy(folder(name).join("config.json"), place.join("config.json")).unwrap();
}

/// What training wraps around a model is around its names too: it runs all the same, and a folder for transformers has the
/// names that transformers wrote.
#[test]
fn models_in_wrappers_run_and_are_written_with_the_names_of_their_class() {
    let names = |path: &Path| {
        let mut names: Vec<_> =
            ckpt_inspect::open(path).unwrap().tensors.iter().map(|t| t.name.clone()).collect();
        names.sort();
        names
    };
    let inner = |name: &str| {
        let name = name.replace("layers.0.", "layers.0._orig_mod.");
        name.replace("layers.1.", "layers.1._checkpoint_wrapped_module.")
    };
    let before = [
        "_orig_mod.",
        "module.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "_fsdp_wrapped_module.",
        "_forward_module.",
        "base_model.model.",
        "model.",
        "model.model.",
        "state_dict.model.",
    ];
    type Wrap = Box<dyn Fn(&str) -> String>;
    let mut ways: Vec<Wrap> = vec![Box::new(inner)];
    ways.push(Box::new(|name: &str| name.replacen("model.", "model._orig_mod.", 1)));
    for before in before {
        ways.push(Box::new(move |name: &str| format!("{before}{name}")));
    }
    for called in ways {
        let place = tempfile::tempdir().unwrap();
        renamed("llama", place.path(), &called);
        agrees("llama", place.path());
        let source = ckpt_inspect::open(place.path()).unwrap();
        let options = Options::new(Target::Hf { packed: false });
        let (mut plan, copy) = (Plan::new(&source, &options).unwrap(), place.path().join("copy"));
        write(&mut plan, &options, &copy, Control::new(&|_| (), &Default::default())).unwrap();
        assert_eq!(names(&copy), names(&folder("llama").join("model.safetensors")), "{}", called("x"));
    }
}

/// transformers would find no weight of such a folder.
#[test]
fn tensors_of_which_none_is_called_like_one_of_the_model_are_refused() {
    let place = tempfile::tempdir().unwrap();
    renamed("llama", place.path(), |name| format!("foo.{name}"));
    let source = ckpt_inspect::open(place.path()).unwrap();
    let refused = |target| Plan::new(&source, &Options::new(target)).unwrap_err().to_string();
    let why = refused(Target::Hf { packed: false });
    assert!(why.contains("the model is incomplete: `embed_tokens.weight` is missing"), "{why}");
    let why = refused(Target::Gguf(Gguf::default()));
    assert!(why.contains("is called like one of such a model, the first is `foo."), "{why}");
    assert!(Plan::new(&source, &Options::new(Target::SafeTensors)).is_ok(), "which says nothing of a model");
}

/// The folder's model, unchanged and with tables in f16; its ids; and an expected result from the file.
fn pair(name: &str, pool: &Pool) -> (Model, Model, Vec<u32>, impl Fn(&str) -> Vec<f64>) {
    let open = |tables| {
        let options = LoadOptions::default().with(|o| o.tables = tables);
        Model::open(&folder(name).join("model.safetensors"), &options, pool).unwrap()
    };
    let truth = ckpt_inspect::open(folder(name).join("truth.safetensors")).unwrap();
    let ids = truth.view::<i32>(truth.tensor("ids").unwrap()).unwrap().iter().map(|&id| id as u32).collect();
    let values = move |name: &str| {
        let tensor = truth.tensor(name).unwrap();
        truth.values(tensor).unwrap().into_iter().map(f64::from).collect()
    };
    (open(None), open(Some(TableType::F16)), ids, values)
}

/// Perplexity is e^loss, and the divergence of a rounded model from the exact one is PyTorch's.
#[test]
fn predictions_are_judged_as_pytorch_judges_them() {
    let pool = Pool::new(2);
    let (exact, rounded, ids, truth) = pair("llama", &pool);
    let windows = Windows::new(128, 64);
    let sequences = [ids.clone(), ids];
    for (model, loss) in [(&exact, "loss"), (&rounded, "rounded_loss")] {
        let mut runner = Runner::new(model, &pool);
        let likelihood = compare::likelihood(&mut runner, &pool, &sequences, windows).unwrap();
        assert_eq!(likelihood.tokens, 2 * 29);
        let want = truth(loss)[0].exp();
        assert!(
            (likelihood.perplexity() / want - 1.0).abs() < 1e-5,
            "{}, not {want}",
            likelihood.perplexity()
        );
    }
    let comparison = compare::compare(&exact, &rounded, &pool, &sequences, windows).unwrap();
    let kl = truth("kl");
    let (mean, largest) = (kl.iter().sum::<f64>() / kl.len() as f64, kl.iter().copied().fold(0.0, f64::max));
    assert!(mean > 1e-9 && (comparison.kl / mean - 1.0).abs() < 0.02, "{} for {mean}", comparison.kl);
    assert!((comparison.largest_kl / largest - 1.0).abs() < 0.02, "{} for {largest}", comparison.largest_kl);
    assert!((comparison.a.perplexity() / truth("loss")[0].exp() - 1.0).abs() < 1e-5);
    assert!((comparison.b.perplexity() / truth("rounded_loss")[0].exp() - 1.0).abs() < 1e-5);
    assert_eq!((comparison.positions, comparison.vocab_size), (60, 53));
}

/// Windows of any length count every token once, and the longest is that of the whole.
#[test]
fn every_token_is_predicted_once() {
    let pool = Pool::new(1);
    let (model, _, ids, _) = pair("llama", &pool);
    let mut runner = Runner::new(&model, &pool);
    let mut of = |context, stride| {
        compare::likelihood(&mut runner, &pool, std::slice::from_ref(&ids), Windows::new(context, stride))
    };
    let whole = of(30, 30).unwrap();
    assert_eq!(of(100, 1).unwrap(), whole);
    for (context, stride) in [(7, 7), (7, 3), (2, 1), (28, 1), (1, 1)] {
        let windowed = of(context, stride).unwrap();
        assert_eq!(windowed.tokens, 29, "{context} {stride}");
        assert_ne!(windowed.nats, whole.nats);
    }
    assert!(of(7, 8).is_err() && of(7, 0).is_err() && of(0, 0).is_err());
    let own = compare::compare(&model, &model, &pool, &[ids[..20].to_vec()], Windows::new(7, 4));
    let own = own.unwrap();
    assert_eq!((own.positions, own.same_best, own.kl, own.worst.difference), (20, 20, 0.0, 0.0));
    assert_eq!(own.a, own.b);
    assert_eq!(
        own.a,
        compare::likelihood(&mut runner, &pool, &[ids[..20].to_vec()], Windows::new(7, 4)).unwrap()
    );
}

/// Also one that a block or a window ends before, whose probability would be looked up.
#[test]
fn ids_beyond_the_vocabulary_are_refused_before_anything_runs() {
    let pool = Pool::new(1);
    let (model, other, ids, _) = pair("llama", &pool);
    for at in [0, 7, 29, 64] {
        let mut wrong = ids.repeat(3);
        wrong[at] = 53;
        let sequences = [ids.clone(), wrong];
        for windows in [Windows::new(90, 45), Windows::new(7, 7)] {
            let likelihood = compare::likelihood(&mut Runner::new(&model, &pool), &pool, &sequences, windows);
            assert!(matches!(likelihood, Err(Error::Token { id: 53, vocab_size: 53 })), "{likelihood:?}");
            let compared = compare::compare(&model, &other, &pool, &sequences, windows);
            assert!(matches!(compared, Err(Error::Token { id: 53, vocab_size: 53 })), "{compared:?}");
        }
    }
}

#[test]
fn drawn_sequences_are_of_the_model() {
    let pool = Pool::new(2);
    let (model, ..) = pair("llama", &pool);
    let drawn = compare::drawn(&model, &pool, 5, 12).unwrap();
    assert_eq!(drawn, compare::drawn(&model, &pool, 5, 12).unwrap());
    assert_eq!(drawn.iter().map(Vec::len).collect::<Vec<_>>(), [12; 5]);
    assert_eq!(drawn.iter().map(|ids| ids[0]).collect::<Vec<_>>(), [0, 10, 21, 31, 42]);
    // What a model draws it finds likelier than what another does, on average over enough tokens.
    let (other, ..) = pair("mistral", &pool);
    let windows = Windows::new(9, 9);
    let drawn = compare::drawn(&model, &pool, 20, 40).unwrap();
    let comparison = compare::compare(&model, &other, &pool, &drawn, windows);
    let comparison = comparison.unwrap();
    assert!(comparison.a.perplexity() < 0.9 * comparison.b.perplexity(), "{comparison:?}");
    assert!(comparison.agreement() < 0.5 && comparison.kl > 0.1, "{comparison:?}");
}
