//! Pickles without tensors, written by an independent implementation and read by both.

use std::collections::{BTreeMap, BTreeSet};

use ckpt_inspect::{open, open_bytes};
use ckpt_kit::fixtures::fixture;
use proptest::prelude::*;
use serde::Deserialize;
use serde_pickle::{HashableValue, SerOptions, Value};

fn keys() -> impl Strategy<Value = HashableValue> {
    prop_oneof![
        any::<i64>().prop_map(HashableValue::I64),
        any::<bool>().prop_map(HashableValue::Bool),
        "\\PC{0,12}".prop_map(HashableValue::String),
        Just(HashableValue::None),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::I64),
        (-300i64..300).prop_map(Value::I64),
        any::<i128>().prop_map(|i| Value::Int(i.into())),
        (-1e300f64..1e300).prop_map(Value::F64),
        any::<f64>().prop_filter("NaN equals nothing", |f| !f.is_nan()).prop_map(Value::F64),
        ".{0,40}".prop_map(Value::String),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        prop::collection::btree_set(keys(), 0..6).prop_map(Value::Set),
        prop::collection::btree_set(keys(), 0..6).prop_map(Value::FrozenSet),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::List),
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Tuple),
            prop::collection::btree_map(keys(), inner, 0..8).prop_map(Value::Dict),
        ]
    })
}

/// What a checkpoint's metadata keeps of a value: sequences and sets are lists, an integer that fits is an `I64`.
fn plain(value: Value) -> Value {
    let list = |items: BTreeSet<HashableValue>| {
        Value::List(items.into_iter().map(|k| plain(k.into_value())).collect())
    };
    match value {
        Value::Int(i) => i64::try_from(&i).map_or(Value::Int(i), Value::I64),
        Value::List(items) | Value::Tuple(items) => Value::List(items.into_iter().map(plain).collect()),
        Value::Set(items) | Value::FrozenSet(items) => list(items),
        Value::Dict(entries) => {
            Value::Dict(entries.into_iter().map(|(k, v)| (k, plain(v))).collect::<BTreeMap<_, _>>())
        }
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_serde_pickle_writes_reads_back_equal(value in values(), old in any::<bool>()) {
        let options = if old { SerOptions::new().proto_v2() } else { SerOptions::new() };
        let bytes = serde_pickle::value_to_vec(&value, options).unwrap();
        let second = serde_pickle::value_from_slice(&bytes, Default::default()).unwrap();
        let checkpoint = open_bytes("values.pkl", bytes).unwrap();
        prop_assert_eq!(&checkpoint.warnings, &Vec::<&str>::new());
        prop_assert_eq!(&checkpoint.metadata, &plain(value));
        prop_assert_eq!(&checkpoint.metadata, &plain(second));
    }
}

#[test]
fn a_typed_config_comes_out_of_a_checkpoint() {
    #[derive(Debug, Deserialize, PartialEq)]
    struct Config {
        model: Model,
        training: Training,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    struct Model {
        hidden_dim: usize,
        num_layers: usize,
        attn_logit_soft_cap: Option<f64>,
        use_qk_norm: bool,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    struct Training {
        muon_lr: f64,
        muon_weight_decay: f64,
    }
    let checkpoint = open(fixture("collapse-run/step-00500.pt")).unwrap();
    let config: Config = serde_pickle::from_value(checkpoint.meta("config").unwrap().clone()).unwrap();
    let model = Model { hidden_dim: 64, num_layers: 2, attn_logit_soft_cap: Some(50.0), use_qk_norm: true };
    assert_eq!(config, Config { model, training: Training { muon_lr: 0.02, muon_weight_decay: 0.1 } });
}
