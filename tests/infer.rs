//! `ckpt infer` as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const HEALTHY: &str = "tests/fixtures/healthy-run/step-02000.pt";

fn ckpt(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ckpt"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The 16 prompt ids and 24 greedy ones of a case, joined by commas.
fn greedy(case: &str) -> (String, String) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/logits/{case}.safetensors"));
    let file = ckpt_inspect::open(&path).unwrap();
    let view = file.view::<i32>(file.tensor("greedy").unwrap()).unwrap();
    let ids: Vec<String> = view.iter().map(i32::to_string).collect();
    (ids[..16].join(","), ids[16..].join(","))
}

#[test]
fn ids_go_on_as_pytorch_says() {
    let plain = ["--bitlinear-attn=false", "--bitlinear-ffn=false", "--attn-cap=none", "--final-cap=none"];
    for (file, case, flags) in [
        (HEALTHY, "healthy-2000", &[][..]),
        ("tests/fixtures/packed/nano-healthy-2000-i2s.pt", "healthy-2000", &[]),
        ("tests/fixtures/collapse-run/step-04000.pt", "collapse-4000", &["--threads=1"]),
        (HEALTHY, "healthy-2000-fp32-nocap", &plain),
    ] {
        let (prompt, want) = greedy(case);
        let output = ckpt(&[&["infer", file, "--ids", &prompt, "-n", "24"], flags].concat());
        assert_eq!(text(&output.stdout), format!("{want}\n"), "{file} {flags:?}: {}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stderr).contains("tokens/s"));
    }
}

#[test]
fn what_is_assumed_is_said() {
    let packed = "tests/fixtures/packed/nano-healthy-2000-i2s.pt";
    let run = |flags: &[&str]| ckpt(&[&["infer", packed, "--ids", "1", "-n", "1"], flags].concat());
    let said = run(&[]).stderr;
    assert!(text(&said).contains("rope_base 1000000") && text(&said).contains("attn_logit_soft_cap 50"));
    let said = run(&["--rope-base", "1e6", "--attn-cap", "50"]).stderr;
    assert!(
        text(&said).contains("assumed")
            && !text(&said).contains("rope_base")
            && !text(&said).contains("attn")
    );
    assert!(!text(&ckpt(&["infer", HEALTHY, "--ids", "1", "-n", "1"]).stderr).contains("assumed"));
}

#[test]
fn logits_are_dumped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logits.safetensors");
    let dump = path.to_str().unwrap();
    let run = |more: &[&str]| {
        ckpt(&[&["infer", HEALTHY, "--ids", "87,280,295", "-n", "0", "--dump-logits", dump], more].concat())
    };
    let output = run(&[]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "\n"));
    let file = ckpt_inspect::open(&path).unwrap();
    assert_eq!(file.tensor("logits").unwrap().shape, [3, 1024]);
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("--force"));
    assert_eq!(run(&["--force"]).status.code(), Some(0));
}

#[test]
fn draws_repeat_and_json_tells_all() {
    let run = |seed: &str| {
        let sampling = ["--temperature", "1.5", "--top-k", "40", "--top-p", "0.95", "--seed", seed];
        let what = ["infer", HEALTHY, "--ids", "87,280", "-n", "12", "--json", "--logprobs", "2"];
        let output = ckpt(&[&what[..], &sampling].concat());
        let mut record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for time in ["prefill_seconds", "decode_seconds"] {
            assert!(record[time].take().as_f64().unwrap() > 0.0);
        }
        record
    };
    let record = run("3");
    assert_eq!(record, run("3"));
    assert_ne!(record["ids"], run("4")["ids"]);
    assert_eq!(record["ids"].as_array().unwrap().len(), 12);
    assert_eq!((&record["reason"], &record["seed"]), (&"max-tokens".into(), &3.into()));
    for (token, id) in record["logprobs"].as_array().unwrap().iter().zip(record["ids"].as_array().unwrap()) {
        assert_eq!(token["id"], *id);
        let logprob = |of: &serde_json::Value| of["logprob"].as_f64().unwrap();
        assert!(logprob(token) <= logprob(&token["top"][0]) && logprob(&token["top"][0]) < 0.0);
    }
}

#[test]
fn generation_ends_where_it_should() {
    let (prompt, want) = greedy("healthy-2000");
    let third = want.split(',').nth(2).unwrap();
    let output = ckpt(&["infer", HEALTHY, "--ids", &prompt, "--stop-id", third]);
    assert!(text(&output.stdout).trim_end().ends_with(third) && text(&output.stdout).split(',').count() <= 3);
    let full = ["infer", HEALTHY, "--ids", &prompt, "-n", "500"];
    let output = ckpt(&full);
    // 128 positions; the last token is told and not run.
    assert_eq!(text(&output.stdout).split(',').count(), 128 - 16 + 1);
    assert!(text(&output.stderr).contains("context is full"));
    let output = ckpt(&[&full[..], &["--slide"]].concat());
    assert_eq!(text(&output.stdout).split(',').count(), 500);
}

#[test]
fn a_prompt_cache_changes_nothing_but_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("prompt.cache");
    let (prompt, want) = greedy("healthy-2000");
    let run =
        || ckpt(&["infer", HEALTHY, "--ids", &prompt, "-n", "24", "--prompt-cache", cache.to_str().unwrap()]);
    let first = run();
    assert_eq!(text(&first.stdout).trim_end(), want);
    assert!(text(&first.stderr).contains("prompt 16 tokens"));
    let second = run();
    assert_eq!(second.stdout, first.stdout);
    assert!(text(&second.stderr).contains("prompt 1 tokens"));
    std::fs::write(&cache, b"something else entirely").unwrap();
    assert_eq!(run().status.code(), Some(3));
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let nothing: PathBuf = tempfile::tempdir().unwrap().path().join("none.pt");
    for (args, code, says) in [
        (&["infer", HEALTHY, "--ids", "1,1024"][..], 2, "outside the vocabulary of 1024"),
        (&["infer", HEALTHY, "--ids", "x"], 2, "invalid value"),
        (&["infer", HEALTHY], 2, "--ids"),
        (&["infer", HEALTHY, "--ids", "1,2,3", "--max-seq-len", "2"], 2, "do not fit a context of 2"),
        (&["infer", nothing.to_str().unwrap(), "--ids", "1"], 3, "none.pt"),
        (&["infer", "tests/fixtures/formats/tied.pt", "--ids", "1"], 3, "is not recognised as a model"),
        (&["infer", HEALTHY, "--ids", "1", "--attn-cap=-1"], 2, "a number above 0"),
        (&["infer", HEALTHY, "--ids", "1", "--max-seq-len", "0"], 3, "max_seq_len"),
    ] {
        let output = ckpt(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(says), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
}
