//! Models that lack tensors: refused, in whatever format, unless that is allowed.

use std::path::Path;

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Error, Gguf, Note, Object, Options, Plan, Remedy, Target, save, write};
use ckpt_inspect::metadata::HashableValue;
use ckpt_inspect::{Checkpoint, open};
use ckpt_kit::fixtures::fixture;
use ckpt_kit::safetensors::SafeTensors;

use super::gguf::{HEALTHY, llama_config};

#[test]
fn an_incomplete_model_is_refused_unless_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let source = open(fixture(HEALTHY)).unwrap();
    const UP: &str = "layers.1.mlp.up_proj.weight";
    let gate = "layers.1.mlp.gate_proj.weight";
    for (number, (name, rows, wanted)) in [
        (UP, None, format!("`{UP}` is missing")),
        (UP, Some(100), format!("`{UP}` has shape [100, 64] where the model needs [128, 64]")),
        (UP, Some(0), format!("`{UP}` has shape [0, 64]")),
        (gate, None, format!("`{gate}` is missing")),
    ]
    .into_iter()
    .enumerate()
    {
        let weights = source.tensors.iter().filter_map(|t| {
            let bare = t.name.strip_prefix("model_state_dict.")?;
            let (mut shape, mut values) = (t.shape.clone(), source.values(t).unwrap());
            if bare == name {
                shape[0] = rows?;
                values.truncate(shape[0] * shape[1]);
            }
            Some((HashableValue::String(bare.into()), Object::Floats { shape, values: values.into() }))
        });
        let path = folder.path().join(format!("{number}.pt"));
        save(&Object::dict([("model_state_dict", Object::Dict(weights.collect()))]), &path, false).unwrap();
        let broken = open(&path).unwrap();
        let targets =
            [Target::Gguf(Gguf::default()), Target::Hf { packed: false }, Target::Torch, Target::SafeTensors];
        for target in targets {
            let refused = Plan::new(&broken, &Options::new(target)).unwrap_err();
            assert!(matches!(refused, Error::Incomplete { .. }), "{refused}");
            assert!(refused.to_string().contains(&wanted), "{refused}");
            assert_eq!(refused.remedy(), Some(Remedy::AllowIncomplete));
            let plan = Plan::new(&broken, &Options::new(target).with(|o| o.allow_incomplete = true)).unwrap();
            let is_it =
                |note: &Note| matches!(note, Note::Incomplete { .. }) && note.to_string().contains(&wanted);
            assert!(plan.notes.iter().any(is_it), "{wanted}: {:?}", plan.notes);
        }
    }
    for target in [Target::Hf { packed: false }, Target::Torch] {
        Plan::new(&source, &Options::new(target)).unwrap();
    }
}

/// What config.json and the other layers promise, in whichever of the formats that models are loaded from.
#[test]
fn a_model_that_lacks_a_layers_tensor_its_embedding_or_its_head_is_refused() {
    let folder = ckpt_kit::fixtures::data("infer", "transformers").join("llama");
    let whole = open(folder.join("model.safetensors")).unwrap();
    let place = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("config.json"), place.path().join("config.json")).unwrap();
    let files = tempfile::tempdir().unwrap();
    let settings = Gguf::new(Quant::F32, Quant::F32);
    let written = |source: &Checkpoint, options: &Options, path: &Path| -> Result<(), Error> {
        let mut plan = Plan::new(source, options)?;
        write(&mut plan, options, path, Control::new(&|_| (), &Default::default())).map(|_| ())
    };
    written(&whole, &Options::new(Target::Gguf(settings)), &files.path().join("whole.gguf")).unwrap();
    for lost in [
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.1.self_attn.o_proj.weight",
        "model.layers.0.post_attention_layernorm.weight",
    ] {
        let kept = whole.tensors.iter().filter(|t| t.name != lost);
        let file =
            kept.fold(SafeTensors::new(), |file, t| file.f32s(&t.name, &t.shape, &whole.values(t).unwrap()));
        file.write(&place.path().join("model.safetensors"));
        let partial = open(place.path()).unwrap();
        let bare = lost.strip_prefix("model.").unwrap_or(lost);
        for target in
            [Target::SafeTensors, Target::Torch, Target::Gguf(settings), Target::Hf { packed: false }]
        {
            let refused = Plan::new(&partial, &Options::new(target)).unwrap_err().to_string();
            assert!(refused.contains(&format!("`{bare}` is missing")), "{refused}");
        }
        // A GGUF file without a head uses the embedding.
        let file = files.path().join("partial.gguf");
        let allowed =
            Options::new(Target::Gguf(settings)).with(|o| (o.allow_incomplete, o.force) = (true, true));
        written(&partial, &allowed, &file).unwrap();
        let again = Plan::new(&open(&file).unwrap(), &Options::new(Target::Hf { packed: false })).map(|_| ());
        assert_eq!(again.is_err(), lost != "lm_head.weight", "{again:?}");
    }
}

#[test]
fn an_adapter_alone_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let name = |part: &str| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight");
    let values: Vec<f32> = (0..128).map(|i| (i as f32).sin()).collect();
    let file = SafeTensors::new().f32s(&name("A"), &[4, 32], &values).f32s(&name("B"), &[32, 4], &values);
    file.write(&folder.path().join("adapter_model.safetensors"));
    std::fs::write(folder.path().join("config.json"), llama_config().to_string()).unwrap();
    let adapter = open(folder.path()).unwrap();
    for target in [Target::Gguf(Gguf::default()), Target::Hf { packed: false }, Target::I2s] {
        let refused = Plan::new(&adapter, &Options::new(target)).unwrap_err().to_string();
        assert!(refused.contains("LoRA adapter"), "{refused}");
    }
    // Another container for it is no model.
    Plan::new(&adapter, &Options::new(Target::SafeTensors)).unwrap();
}
