//! Any bytes at all give a checkpoint or a typed error: sets of files in which something is wrong, and pickles made of
//! random opcodes. Changes of single files are what `fuzz/` makes.

use ckpt_inspect::pickle::Pickle;
use ckpt_inspect::{Checkpoint, Options, Result, describe, find, judge, open, open_bytes};
use ckpt_kit::safetensors::{self, SafeTensors};
use proptest::prelude::*;

/// A Hugging Face BitNet model in two shards.
fn bitnet_set() -> Vec<(String, Vec<u8>)> {
    let config = r#"{"architectures":["BitNetForCausalLM"],"model_type":"bitnet","quantization_config":{"quant_method":"bitnet","linear_class":"autobitlinear"}}"#;
    let index = r#"{"metadata":{"total_size":20},"weight_map":{"l.weight":"model-00001-of-00002.safetensors","l.weight_scale":"model-00001-of-00002.safetensors","n.weight":"model-00002-of-00002.safetensors"}}"#;
    let first = SafeTensors::new().tensor("l.weight", "U8", &[1, 4], &[0x55, 0x99, 0x26, 0x12]).f32s(
        "l.weight_scale",
        &[1],
        &[0.5],
    );
    let second = SafeTensors::new().tensor("n.weight", "BF16", &[4], &[1, 0x3f, 2, 0x3f, 3, 0x3f, 4, 0x3f]);
    vec![
        ("config.json".into(), config.into()),
        ("model.safetensors.index.json".into(), index.into()),
        ("model-00001-of-00002.safetensors".into(), first.bytes()),
        ("model-00002-of-00002.safetensors".into(), second.bytes()),
    ]
}

#[test]
fn the_sharded_set_itself_opens() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in bitnet_set() {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let checkpoint = open(folder.path()).unwrap();
    assert!(!checkpoint.is_damaged(), "{:?}", checkpoint.damage);
    assert_eq!(checkpoint.tensor("l.weight").unwrap().dtype.name(), "hf_bitnet");
}

/// Describes and judges what was opened; whatever it was, this returns.
fn examine(opened: Result<Checkpoint>) -> bool {
    match opened {
        Ok(mut checkpoint) => {
            checkpoint.verify_checksums();
            let mut record = describe(&checkpoint, Options::default().with(|o| o.sha256 = true), &|_| ());
            judge(&mut record, &Default::default());
            serde_json::to_string(&record).unwrap();
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_mutation_of_a_sharded_set_returns(
        file in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
        gone in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut files = bitnet_set();
        let count = files.len();
        let bytes = &mut files[file.index(count)].1;
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Some(gone) = gone {
            files.remove(gone.index(count));
        }
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        for path in find(folder.path()).unwrap() {
            examine(open(path));
        }
    }

    #[test]
    fn any_bytes_are_a_pickle_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Pickle::parse(&bytes);
    }

    #[test]
    fn any_opcodes_are_a_pickle_or_an_error(
        opcodes in prop::collection::vec(prop::sample::select(
            b"()]}0122NaabddeeghijloPQRsttu.KMJGXUTBC\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8c\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x00\x01\x02\n".to_vec()
        ), 0..200),
    ) {
        let mut bytes = vec![0x80, 2];
        bytes.extend(opcodes);
        bytes.push(b'.');
        examine(open_bytes("made.pkl", bytes));
    }
}

/// No elements, and a row length beyond any machine.
#[test]
fn empty_tensors_of_immense_rows_are_read() {
    let header = r#"{"a":{"dtype":"F32","shape":[0,4294967296,4294967296,4294967296],"data_offsets":[0,0]}}"#;
    assert!(examine(open_bytes("immense.safetensors", safetensors::raw(header, &[]))));
}

/// A size that is zero comes after others whose product is beyond any machine.
#[test]
fn empty_tensors_whose_other_sizes_overflow_are_read() {
    let sizes = vec!["2"; 64].join(",");
    let header = format!(r#"{{"a":{{"dtype":"F32","shape":[{sizes},0],"data_offsets":[0,0]}}}}"#);
    let checkpoint = open_bytes("a", safetensors::raw(&header, &[])).unwrap();
    assert_eq!((checkpoint.tensors[0].span(), checkpoint.parameters()), (Some(0), 0));
    assert!(examine(Ok(checkpoint)));
}

/// Heads are told and there are no rows for them to share.
#[test]
fn projections_without_rows_have_no_heads() {
    let rows = [("embed_tokens", 4), ("layers.0.self_attn.q_proj", 0), ("layers.0.self_attn.k_proj", 0)];
    let rows = rows.into_iter().chain([("layers.0.mlp.gate_proj", 4)]);
    let config =
        SafeTensors::new().metadata(serde_json::json!({"config": r#"{"num_heads":4,"hidden_dim":8}"#}));
    let file = rows.fold(config, |file, (name, rows)| {
        file.f32s(&format!("{name}.weight"), &[rows, 8], &vec![0.0; 8 * rows])
    });
    let student = open_bytes("a", file.bytes()).unwrap().model.student.unwrap();
    assert_eq!((student.num_heads, student.num_kv_heads), (0, 0));
}
