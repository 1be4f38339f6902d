//! Whether everything is there that was promised, and whether the files of a checkpoint agree.

use ckpt_kit::peers;
use ckpt_kit::random::Random;

use super::*;

const WIDTH: usize = 16;
const MLP: usize = 32;
const TOKENS: usize = 48;
const LAYERS: usize = 4;

/// The tensors of a small Llama.
fn llama() -> Vec<(String, Vec<usize>)> {
    let mut all = vec![("model.embed_tokens.weight".to_string(), vec![TOKENS, WIDTH])];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            all.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        for name in ["input_layernorm", "post_attention_layernorm"] {
            add(name, &[WIDTH]);
        }
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{name}"), &[WIDTH, WIDTH]);
        }
        add("mlp.gate_proj", &[MLP, WIDTH]);
        add("mlp.up_proj", &[MLP, WIDTH]);
        add("mlp.down_proj", &[WIDTH, MLP]);
    }
    all.push(("model.norm.weight".into(), vec![WIDTH]));
    all.push(("lm_head.weight".into(), vec![TOKENS, WIDTH]));
    all
}

/// A file of tensors with these names and shapes, random but for the gains of norms.
fn file(tensors: &[(String, Vec<usize>)]) -> SafeTensors {
    let mut random = Random::new(7);
    tensors.iter().fold(SafeTensors::new(), |file, (name, shape)| {
        let draw = |_| if shape.len() == 1 { 1.1 } else { 0.25 * random.even() };
        let values: Vec<f32> = (0..shape.iter().product()).map(draw).collect();
        file.f32s(name, shape, &values)
    })
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
        "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 2,
        "vocab_size": TOKENS, "tie_word_embeddings": false, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
    })
}

/// The gate's answer to a folder of these tensors and this configuration.
fn answer(tensors: &[(String, Vec<usize>)], config: &Value) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    file(tensors).write(&folder.path().join("model.safetensors"));
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    gate_in(folder.path(), &["."])
}

#[test]
fn what_a_known_architecture_promises_must_be_there_in_its_shape() {
    let whole = llama();
    answer(&whole, &config()).exits(0);
    let without = |part: &str| -> Vec<(String, Vec<usize>)> {
        whole.iter().filter(|(name, _)| !name.contains(part)).cloned().collect()
    };
    for (part, told) in [
        ("model.norm", "missing: model.norm.weight"),
        ("lm_head", "missing: lm_head.weight"),
        ("mlp.up_proj", "missing: model.layers.0.mlp.up_proj.weight"),
        ("layers.3.self_attn.k_proj", "missing: model.layers.3.self_attn.k_proj.weight"),
        ("layers.3.", "num_hidden_layers 4, and there are 3"),
    ] {
        answer(&without(part), &config()).exits(1).says(&["incomplete", told]);
    }
    let mut reshaped = whole.clone();
    reshaped.iter_mut().find(|(name, _)| name.contains("layers.1.mlp.up")).unwrap().1 = vec![WIDTH, MLP];
    answer(&reshaped, &config()).exits(1).says(&["shape [16, 32], and the configuration promises [32, 16]"]);
    // A head that is the embedding need not be there, and vocabularies are padded.
    let mut tied = config();
    tied["tie_word_embeddings"] = true.into();
    answer(&without("lm_head"), &tied).exits(0);
    let mut fewer = config();
    fewer["vocab_size"] = 40.into();
    answer(&whole, &fewer).exits(0);
}

#[test]
fn a_gguf_file_holds_every_tensor_of_its_architecture() {
    let converted = |without: Option<&str>| {
        let folder = tempfile::tempdir().unwrap();
        let kept: Vec<_> =
            llama().into_iter().filter(|(name, _)| without.is_none_or(|part| !name.contains(part))).collect();
        file(&kept).write(&folder.path().join("model.safetensors"));
        std::fs::write(folder.path().join("config.json"), config().to_string()).unwrap();
        let arguments = ["convert", ".", "--to", "gguf", "--allow-incomplete", "-o", "out.gguf"];
        program().in_folder(folder.path()).run(&arguments).exits(0);
        folder
    };
    gate_in(converted(None).path(), &["out.gguf"]).exits(0);
    // Without a head the embedding is one.
    gate_in(converted(Some("lm_head")).path(), &["out.gguf"]).exits(0);
    for (part, told) in [
        ("model.norm", "missing: output_norm.weight"),
        ("layers.1.self_attn.k_proj", "missing: blk.1.attn_k.weight"),
        ("embed_tokens", "missing: token_embd.weight"),
    ] {
        gate_in(converted(Some(part)).path(), &["out.gguf"]).exits(1).says(&["incomplete", told]);
    }
}

#[test]
fn a_float_llama_without_configuration_is_no_ternary_network_whatever_it_is_wrapped_in() {
    for wrapper in
        ["", "model.", "module.model.", "state_dict.model.", "app.model.model.", "model_state_dict."]
    {
        let folder = tempfile::tempdir().unwrap();
        let wrapped: Vec<_> = llama()
            .into_iter()
            .map(|(name, shape)| (format!("{wrapper}{}", name.trim_start_matches("model.")), shape))
            .collect();
        file(&wrapped).write(&folder.path().join("weights.safetensors"));
        let json = program()
            .in_folder(folder.path())
            .run(&["inspect", "weights.safetensors", "--format", "json"])
            .json();
        assert_eq!(json["model"]["architecture"], "unknown", "{wrapper}");
    }
}

#[test]
fn another_models_configuration_is_told() {
    let mut other = config();
    (other["hidden_size"], other["intermediate_size"]) = (24.into(), 64.into());
    answer(&llama(), &other).exits(1).says(&["another model's"]);
    let renamed: Vec<_> =
        llama().into_iter().map(|(name, s)| (name.replace("self_attn", "attention"), s)).collect();
    answer(&renamed, &config()).exits(1).says(&["incomplete"]);
    // Of an architecture that is not in the table, layers, tokens and width alone are held against it.
    let mut unknown = config();
    (unknown["architectures"], unknown["model_type"]) = (json!(["NewForCausalLM"]), "new".into());
    answer(&renamed, &unknown).exits(0);
    unknown["num_hidden_layers"] = 5.into();
    answer(&renamed, &unknown).exits(1).says(&["num_hidden_layers 5, and there are 4"]);
}

/// What the safetensors library does not load is damaged, though all of it can be read.
#[test]
fn a_file_that_its_own_library_refuses_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let values = le(&values(256, 0.3));
    let entry = |name: &str, at: usize| {
        format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":[16,16],\"data_offsets\":[{at},{}]}}", at + 1024)
    };
    let w = entry("w.weight", 0);
    let two = values.repeat(2);
    let cases = [
        (
            "trailing",
            format!("{{{w}}}"),
            [&values[..], &[0; 100]].concat(),
            "100 bytes follow the last tensor",
        ),
        (
            "hole",
            format!("{{{w},{}}}", entry("v.weight", 2048)),
            values.repeat(3),
            "1024 bytes between its tensors",
        ),
        ("numbers", format!("{{\"__metadata__\":{{\"step\":5}},{w}}}"), values.clone(), "__metadata__"),
        ("list", format!("{{\"__metadata__\":[1],{w}}}"), values.clone(), "__metadata__"),
        ("fine", format!("{{\"__metadata__\":{{\"step\":\"5\"}},{w}}}   "), values.clone(), ""),
        ("empty-metadata", format!("{{\"__metadata__\":null,{w}}}"), values.clone(), ""),
        ("shuffled", format!("{{{},{w}}}", entry("v.weight", 1024)), two, ""),
    ];
    for (name, header, data, told) in &cases {
        let path = folder.path().join(format!("{name}.safetensors"));
        std::fs::write(&path, safetensors::raw(header, data)).unwrap();
        let output = gate_in(folder.path(), &[text(&path)]);
        match told.is_empty() {
            true => drop(output.exits(0)),
            false => drop(output.exits(3).says(&["damaged-file", told])),
        }
    }
    let Some(python) = peers::python(&["safetensors", "numpy"]) else { return };
    const LOAD: &str = "import sys, json; from safetensors import safe_open\n\
        def loads(p):\n    try:\n        safe_open(p, 'np').keys(); return True\n    except Exception: return False\n\
        print(json.dumps([loads(p) for p in sys.argv[1:]]))";
    let paths: Vec<_> =
        cases.iter().map(|(name, ..)| folder.path().join(format!("{name}.safetensors"))).collect();
    let loads = peers::json(&python.code(LOAD, &paths));
    let wanted: Vec<bool> = cases.iter().map(|(.., told)| told.is_empty()).collect();
    assert_eq!(loads, json!(wanted));
}

/// A set of three shards with its index, as `change` leaves it, and what the gate says of it.
fn set(change: impl FnOnce(&Path, &mut serde_json::Map<String, Value>)) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let mut map = serde_json::Map::new();
    let names =
        |shard: usize| ["mlp.up_proj", "mlp.down_proj"].map(|n| format!("model.layers.{shard}.{n}.weight"));
    for shard in 1..=3 {
        let tensors = names(shard).map(|name| (name, vec![WIDTH, WIDTH]));
        file(&tensors).write(&folder.path().join(shard_name(shard, 3)));
        map.extend(names(shard).map(|name| (name, shard_name(shard, 3).into())));
    }
    change(folder.path(), &mut map);
    let index = json!({"metadata": {}, "weight_map": map});
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    // Layers that are drawn alike are not the point here.
    gate_in(folder.path(), &[".", "--allow", "dead"])
}

fn shard_name(shard: usize, of: usize) -> String {
    format!("model-{shard:05}-of-{of:05}.safetensors")
}

#[test]
fn index_and_shards_must_agree() {
    const UP: &str = "model.layers.1.mlp.up_proj.weight";
    set(|_, _| ()).exits(0);
    set(|_, map| drop(map.remove(UP)))
        .exits(1)
        .says(&["contradiction", "1 tensor is in the shards but not in the index"]);
    set(|_, map| drop(map.insert(UP.into(), shard_name(3, 3).into())))
        .exits(1)
        .says(&["contradiction", "1 tensor is in another shard than the index says"]);
    set(|folder, _| file(&[("x.weight".into(), vec![4, 4])]).write(&folder.join(shard_name(4, 4))))
        .exits(1)
        .says(&["contradiction", "1 file looks like a shard but is not in the index"]);
    set(|folder, _| {
        let twice = ["model.layers.3.mlp.up_proj.weight", "model.layers.3.mlp.down_proj.weight", UP];
        file(&twice.map(|name| (name.into(), vec![WIDTH, WIDTH]))).write(&folder.join(shard_name(3, 3)));
    })
    .exits(1)
    .says(&["contradiction", "is in more than one shard"]);
    set(|folder, _| file(&[("x.weight".into(), vec![4, 4])]).write(&folder.join("model.safetensors")))
        .exits(1)
        .says(&["contradiction", "6 tensors of the other form"]);
    // What is not there is damage.
    set(|_, map| drop(map.insert("mtp.fc.weight".into(), shard_name(3, 3).into())))
        .exits(3)
        .says(&["`mtp.fc.weight`"]);
    set(|folder, _| std::fs::remove_file(folder.join(shard_name(2, 3))).unwrap())
        .exits(3)
        .says(&["1 of 3 shards missing"]);
}
