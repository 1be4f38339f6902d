//! `ckpt verify --outputs`, `ckpt infer --perplexity` and `ckpt bench` as a user runs them.

use ckpt_kit::binary::{Ran, text};
use ckpt_kit::fixtures::root;
use serde_json::Value;

use crate::program;

const HEALTHY: &str = "tests/fixtures/healthy-run/step-02000.pt";
const PACKED: &str = "tests/fixtures/packed/nano-healthy-2000-i2s.pt";
const COLLAPSED: &str = "tests/fixtures/collapse-run/step-04000.pt";
/// Two sequences of 48 tokens.
const IDS: &str = "infer/tests/data/healthy.jsonl";

fn ckpt(args: &[&str]) -> Ran {
    program().run(args)
}

/// PyTorch's perplexity of the same ids: `infer/tests/data/ids.py`, as lists and as numbers.
#[test]
fn perplexity_is_that_of_pytorch() {
    let folder = tempfile::tempdir().unwrap();
    let truth: Value = serde_json::from_str(include_str!("../../infer/tests/data/perplexity.json")).unwrap();
    for (model, name) in [(HEALTHY, "healthy"), (COLLAPSED, "collapsed")] {
        let lists = format!("infer/tests/data/{name}.jsonl");
        let lines = std::fs::read_to_string(root().join(&lists)).unwrap();
        let numbers = folder.path().join("numbers.ids");
        std::fs::write(&numbers, lines.replace(['[', ']'], "").replace(',', " ")).unwrap();
        for file in [lists, numbers.to_str().unwrap().into()] {
            let output = ckpt(&["infer", model, "--perplexity", &file, "--json"]);
            let record = output.json();
            let (got, want) = (record["perplexity"].as_f64().unwrap(), truth[name].as_f64().unwrap());
            assert!((got / want - 1.0).abs() < 1e-4, "{name} {file}: {got} for {want}");
            assert_eq!((&record["tokens"], &record["sequences"]), (&(2 * 47).into(), &2.into()));
        }
    }
    let output = ckpt(&["infer", HEALTHY, "--perplexity", IDS, "--context", "16", "--stride", "8"]);
    let narrow: f64 = output.out().trim().parse().unwrap();
    assert!(narrow > truth["healthy"].as_f64().unwrap() && output.err().contains("94 tokens"));
}

#[test]
fn equal_models_are_verified() {
    let output = ckpt(&["verify", HEALTHY, PACKED, "--outputs", "--max-difference", "0.01"]).exits(0);
    let said = output.out();
    assert!(
        said.contains("verified: the outputs agree") && said.contains("16 sequences, 1024 positions"),
        "{said}"
    );
    let record = ckpt(&["verify", HEALTHY, PACKED, "--outputs", "--prompts", IDS, "--format", "json"]).json();
    assert_eq!((&record["agrees"], &record["positions"]), (&true.into(), &96.into()));
    // Scales that PyTorch summed in another order may differ in their last place, which occasionally changes a
    // rounding.
    for (key, most) in [("kl", 1e-6), ("largest_kl", 1e-5), ("largest_difference", 0.01)] {
        assert!(record[key].as_f64().unwrap() <= most, "{key}: {record:#}");
    }
    assert_eq!(record["top1_agreement"], 1.0);
    let own = ckpt(&["verify", HEALTHY, HEALTHY, "--outputs", "--prompts", IDS, "--format", "json"]).json();
    assert_eq!((&own["largest_difference"], &own["kl"]), (&0.0.into(), &0.0.into()));
    assert_eq!(own["perplexity"][0], own["perplexity"][1]);
}

#[test]
fn different_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let half = folder.path().join("half.safetensors");
    let convert = ["convert", HEALTHY, "--to", "f16", "-o", half.to_str().unwrap()];
    ckpt(&convert).exits(0);
    let verify = |b: &str, flags: &[&str]| {
        let output = ckpt(
            &[&["verify", HEALTHY, b, "--outputs", "--prompts", IDS, "--format", "json"], flags].concat(),
        );
        (output.code(), output.json())
    };
    let half = half.to_str().unwrap();
    let (code, record) = verify(half, &[]);
    assert_eq!((code, &record["failures"]), (Some(0), &Value::Array(Vec::new())), "{record:#}");
    let difference = record["largest_difference"].as_f64().unwrap();
    assert!(difference > 0.0 && difference < 1.0 && record["kl"].as_f64().unwrap() > 0.0, "{record:#}");
    let (code, record) = verify(half, &["--max-difference", "0.0001"]);
    assert!(code == Some(1) && record["failures"][0].as_str().unwrap().contains("logit"), "{record:#}");

    let (code, record) = verify(COLLAPSED, &[]);
    assert_eq!((code, &record["agrees"]), (Some(1), &false.into()));
    let failures: Vec<&str> =
        record["failures"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    for what in ["divergence", "top-1 agreement", "perplexity ratio"] {
        assert!(failures.iter().any(|f| f.contains(what)), "{what}: {failures:?}");
    }
    // Flags apply to both: without BitLinear the packed weights give other results.
    let float = ["--bitlinear-attn=false", "--bitlinear-ffn=false", "--outputs"];
    ckpt(&[&["verify", HEALTHY, PACKED][..], &float].concat()).exits(1);
}

#[test]
fn wrong_input_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_string()
    };
    let words = write("words.jsonl", "[1, 2]\n[3, four]\n");
    let large = write("large.ids", "1 2 1024");
    let empty = write("empty.ids", "\n\n");
    let one = write("one.ids", "7");
    for (args, code, says) in [
        (&["infer", HEALTHY, "--perplexity", &words][..], 3, "line 2: `four` is not a token id"),
        (&["infer", HEALTHY, "--perplexity", &large], 2, "outside the vocabulary"),
        (&["infer", HEALTHY, "--perplexity", &empty], 3, "contains no token ids"),
        (&["infer", HEALTHY, "--perplexity", &one], 2, "at least two tokens"),
        (&["infer", HEALTHY, "--perplexity", "none.ids"], 3, "cannot be read"),
        (&["infer", HEALTHY, "--perplexity", HEALTHY], 3, "is not UTF-8 text"),
        (&["infer", HEALTHY, "--perplexity", "tests/fixtures/logits/none.safetensors"], 3, "none"),
        (&["infer", HEALTHY, "--perplexity", IDS, "--stride", "0"], 2, "stride"),
        (
            &["infer", HEALTHY, "--perplexity", IDS, "--context", "500"],
            2,
            "is more than the model's context of 128",
        ),
        (&["infer", HEALTHY, "--perplexity", IDS, "--ids", "1"], 2, "cannot be used with"),
        (&["verify", HEALTHY, PACKED, "--prompts", IDS], 2, "--outputs"),
        (
            &["verify", HEALTHY, "infer/tests/data/ffn_only.pt", "--outputs"],
            2,
            "vocabularies of different sizes",
        ),
        (&["verify", HEALTHY, PACKED, "--outputs", "--max-kl", "-1"], 2, "of 0 or more"),
        (&["bench", HEALTHY, "--prompt", "500"], 2, "do not fit into the model's context of 128"),
        (&["bench", HEALTHY, "--threads", "0"], 2, "0"),
        (&["bench", "none.pt"], 3, "none.pt"),
    ] {
        let output = ckpt(args);
        let stderr = output.err();
        assert_eq!(output.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(says), "{args:?}: {stderr}");
        assert!(output.out().is_empty());
    }
}

/// Blocks of 64 tokens and windows are run one after another; the id that no row of logits has is told before.
#[test]
fn a_token_beyond_the_vocabulary_is_told_wherever_it_stands() {
    let place = program().in_its_folder();
    let healthy = root().join(HEALTHY);
    let healthy = text(&healthy);
    for at in [0, 16, 64, 100] {
        let mut ids: Vec<String> = (0..105).map(|i| (i * 7 % 1000).to_string()).collect();
        ids[at] = "5000".into();
        std::fs::write(place.at("x.ids"), ids.join(" ")).unwrap();
        for args in [
            &["infer", healthy, "--perplexity", "x.ids"][..],
            &["infer", healthy, "--perplexity", "x.ids", "--context", "16"],
            &["verify", healthy, healthy, "--outputs", "--prompts", "x.ids"],
            &["edit", healthy, "--strip-optimizer", "--perplexity", "x.ids", "-o", "o.pt"],
        ] {
            place.run(args).exits(2).complains(&["token id 5000 is outside the vocabulary of 1024"]);
        }
        assert!(!place.at("o.pt").exists(), "nothing is written");
    }
}

#[test]
fn speed_is_measured() {
    let short = ["--prompt", "8,64", "--context", "4,32", "-n", "8", "--repeat", "2", "--threads", "1,2"];
    let record = ckpt(&[&["bench", HEALTHY, "--format", "json"][..], &short].concat()).json();
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&record["bytes_per_token"]) < number(&record["weight_bytes"]));
    assert_eq!(number(&record["kv_bytes"]), (2 * 2 * 32 * 64 * 4) as f64);
    for (of, threads) in record["threads"].as_array().unwrap().iter().zip([1, 2]) {
        assert_eq!(of["threads"], threads);
        assert!(number(&of["load_seconds"]) > 0.0);
        let limit = number(&of["read_bandwidth"]) / number(&record["bytes_per_token"]);
        assert!((number(&of["limit"]) / limit - 1.0).abs() < 1e-6);
        for (what, lengths) in [("prefill", [8, 64]), ("decode", [4, 32])] {
            for (speed, length) in of[what].as_array().unwrap().iter().zip(lengths) {
                assert_eq!(speed["tokens"], length);
                assert!(number(&speed["tokens_per_second"]) >= number(&speed["median_tokens_per_second"]));
                assert!(number(&speed["median_tokens_per_second"]) > 0.0);
            }
        }
    }
    let output = ckpt(&[&["bench", HEALTHY, "--kv", "f16", "--embeddings", "q6"][..], &short].concat());
    let said = output.out();
    for what in ["prefill of 64", "decode after 32", "1 thread:", "2 threads:", "in f16", "read bandwidth"] {
        assert!(said.contains(what), "{what}: {said}");
    }
}
