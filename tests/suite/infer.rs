//! `ckpt infer` as a user runs it.

use std::path::PathBuf;

use ckpt_kit::binary::{Ran, text};
use ckpt_kit::fixtures::fixture;

use crate::program;

const HEALTHY: &str = "tests/fixtures/healthy-run/step-02000.pt";

fn ckpt(args: &[&str]) -> Ran {
    program().run(args)
}

/// The 16 prompt ids and 24 greedy ones of a case, joined by commas.
fn greedy(case: &str) -> (String, String) {
    let path = fixture(&format!("logits/{case}.safetensors"));
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
        assert_eq!(output.out(), format!("{want}\n"), "{file} {flags:?}: {}", output.err());
        assert_eq!(output.code(), Some(0));
        assert!(output.err().contains("tokens/s"));
    }
}

/// The head's blocks are multiplied as they are: with activations of 16 bits as good as exactly, and of 8 with `--fast`.
#[test]
fn blocks_of_a_file_are_run_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("model.gguf");
    ckpt(&["convert", HEALTHY, "--to", "gguf", "--quant", "f32", "--embed", "q8_0", "-o", text(&gguf)])
        .exits(0);
    let logits = |name: &str, flags: &[&str]| {
        let dump = folder.path().join(name);
        let command = ["infer", text(&gguf), "--ids", "87,280,295", "-n", "0", "--dump-logits", text(&dump)];
        ckpt(&[&command, flags].concat()).exits(0);
        let dump = ckpt_inspect::open(&dump).unwrap();
        dump.values(dump.tensor("logits").unwrap()).unwrap()
    };
    let values = logits("values", &["--embeddings", "f32"]);
    let off = |logits: &[f32]| {
        let apart = values.iter().zip(logits).map(|(a, b)| (a - b).abs());
        apart.fold(0.0, f32::max) / values.iter().fold(0.0, |most, x| x.abs().max(most))
    };
    let (blocks, fast) = (off(&logits("blocks", &[])), off(&logits("fast", &["--fast"])));
    assert!(blocks > 0.0 && blocks <= 2e-4, "{blocks}");
    assert!(fast > 4.0 * blocks && fast < 0.05, "{fast}, and {blocks} without --fast");
}

#[test]
fn what_is_assumed_is_said() {
    let packed = "tests/fixtures/packed/nano-healthy-2000-i2s.pt";
    let run = |flags: &[&str]| ckpt(&[&["infer", packed, "--ids", "1", "-n", "1"], flags].concat());
    run(&[]).complains(&["rope_base 1000000", "attn_logit_soft_cap 50"]);
    let said = run(&["--rope-base", "1e6", "--attn-cap", "50"]).complains(&["assumed"]);
    assert!(!said.err().contains("rope_base") && !said.err().contains("attn"), "{said}");
    let said = ckpt(&["infer", HEALTHY, "--ids", "1", "-n", "1"]);
    assert!(!said.err().contains("assumed"), "{said}");
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
    assert_eq!((output.code(), output.out()), (Some(0), "\n"));
    let file = ckpt_inspect::open(&path).unwrap();
    assert_eq!(file.tensor("logits").unwrap().shape, [3, 1024]);
    let output = run(&[]).exits(4);
    assert!(output.err().contains("--force"));
    run(&["--force"]).exits(0);
}

/// Devices are written to directly, and outputs that will be refused are refused before anything is read.
#[cfg(unix)]
#[test]
fn where_output_goes_is_looked_at_first() {
    ckpt(&["infer", HEALTHY, "--ids", "87,280", "-n", "0", "--dump-logits", "/dev/null"]).exits(0);
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path().join("lost")).unwrap();
    for (flag, name, word) in [
        ("--dump-logits", "", "a folder"),
        ("--dump-logits", "lost", "link to a file that does not exist"),
        ("--dump-logits", "none/logits", "its folder does not exist"),
        ("--prompt-cache", "lost", "link to a file that does not exist"),
    ] {
        let path = folder.path().join(name);
        let output = ckpt(&["infer", "missing.pt", "--ids", "87", flag, text(&path)]).exits(4);
        assert!(output.err().contains(word), "{flag} {name}: {output}");
    }
}

#[test]
fn samples_repeat_and_json_has_everything() {
    let run = |seed: &str| {
        let sampling = ["--temperature", "1.5", "--top-k", "40", "--top-p", "0.95", "--seed", seed];
        let what = ["infer", HEALTHY, "--ids", "87,280", "-n", "12", "--json", "--logprobs", "2"];
        let output = ckpt(&[&what[..], &sampling].concat());
        let mut record = output.json();
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
    assert!(output.out().trim_end().ends_with(third) && output.out().split(',').count() <= 3);
    let full = ["infer", HEALTHY, "--ids", &prompt, "-n", "500"];
    let output = ckpt(&full);
    // 128 positions; the last token is returned and not run.
    assert_eq!(output.out().split(',').count(), 128 - 16 + 1);
    assert!(output.err().contains("context is full"));
    let output = ckpt(&[&full[..], &["--slide"]].concat());
    assert_eq!(output.out().split(',').count(), 500);
}

/// Ids that end a text are those of config.json, all of a list, whether or not there is a tokenizer.
#[test]
fn every_id_of_a_list_ends_a_text_of_ids() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("step-02000.pt");
    std::fs::copy(HEALTHY, &model).unwrap();
    let (prompt, want) = greedy("healthy-2000");
    let want: Vec<&str> = want.split(',').collect();
    let run = |more: &[&str]| {
        let output = ckpt(&[&["infer", text(&model), "--ids", &prompt, "-n", "24"], more].concat()).exits(0);
        output.out().trim_end().split(',').count()
    };
    assert_eq!(run(&[]), 24);
    let first = 1 + want.iter().position(|id| *id == want[3]).unwrap();
    for (name, ids) in
        [("config.json", format!("[1023, {}]", want[3])), ("generation_config.json", want[3].into())]
    {
        std::fs::write(folder.path().join(name), format!("{{\"eos_token_id\": {ids}}}")).unwrap();
        assert_eq!(run(&[]), first, "{name}");
        assert_eq!(run(&["--ignore-eos"]), 24);
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
}

#[test]
fn a_prompt_cache_changes_nothing_but_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("prompt.cache");
    let (prompt, want) = greedy("healthy-2000");
    let run =
        || ckpt(&["infer", HEALTHY, "--ids", &prompt, "-n", "24", "--prompt-cache", cache.to_str().unwrap()]);
    let first = run();
    assert_eq!(first.out().trim_end(), want);
    assert!(first.err().contains("prompt 16 tokens"));
    let second = run();
    assert_eq!(second.out(), first.out());
    assert!(second.err().contains("prompt 1 token,"));
    std::fs::write(&cache, b"something else entirely").unwrap();
    run().exits(3);
}

/// The text of a run, without its last line break.
fn continued(args: &[&str]) -> String {
    let output = ckpt(&[&["infer", HEALTHY], args].concat()).exits(0);
    output.out().strip_suffix('\n').unwrap().to_string()
}

#[test]
fn text_goes_on_as_its_tokens_do() {
    let tokenizer = tokenizers::Tokenizer::from_file(fixture("tokenizer.json")).unwrap();
    let (prompt, want) = greedy("healthy-2000");
    let text_of = |ids: &str| {
        let ids: Vec<u32> = ids.split(',').map(|id| id.parse().unwrap()).collect();
        tokenizer.decode(&ids, true).unwrap()
    };
    let (prompt, want) = (text_of(&prompt), text_of(&want));
    assert_eq!(continued(&["-p", &prompt, "-n", "24"]), want.trim_end_matches('\n'));
    let explicit = ["-p", &prompt, "-n", "24", "--tokenizer", "tests/fixtures"];
    assert_eq!(continued(&explicit), want.trim_end_matches('\n'));

    let stop = want.chars().skip(4).take(3).collect::<String>();
    let cut = &want[..want.find(&stop).unwrap()];
    assert_eq!(continued(&["-p", &prompt, "-n", "24", "--stop", &stop]), cut.trim_end_matches('\n'));
    let output =
        ckpt(&["infer", HEALTHY, "-p", &prompt, "-n", "24", "--stop", &stop, "--json", "--logprobs", "1"]);
    let record = output.json();
    assert_eq!((record["text"].as_str(), record["reason"].as_str()), (Some(cut), Some("stop-text")));
    let token = &record["logprobs"][0];
    assert_eq!(token["token"], text_of(&token["id"].to_string()));
    assert_eq!(token["top"][0]["token"], token["token"]);
}

#[test]
fn standard_input_is_a_prompt() {
    let run = |args: &[&str], input: &[u8]| {
        program().run_with_input(&[&["infer", HEALTHY, "-n", "8"], args].concat(), input)
    };
    let want = continued(&["-p", "import os", "-n", "8"]);
    for (args, input) in
        [(&[][..], &b"import os\n"[..]), (&["-p", "-"], b"import os\r\n"), (&[], b"import os")]
    {
        assert_eq!(run(args, input).out().strip_suffix('\n'), Some(want.as_str()), "{args:?}");
    }
    let output = run(&[], b"a\xff").exits(2);
    assert!(output.err().contains("UTF-8 at byte 1"));
}

#[test]
fn special_tokens_mean_something_only_where_asked() {
    let ids = |args: &[&str]| {
        let output = ckpt(&[&["infer", HEALTHY, "--json", "-n", "1", "-p", "<s>a"], args].concat());
        let record = output.json();
        record["prompt"].as_array().unwrap().len()
    };
    assert_eq!((ids(&["--parse-special"]), ids(&[])), (2, 4));
    let output = ckpt(&["infer", HEALTHY, "-p", "a", "--suffix", "b"]).exits(2);
    assert!(output.err().contains("no fill-in-the-middle tokens"));
}

#[test]
fn holes_are_filled_with_the_tokens_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = fixture("tokenizer.json");
    let file = std::fs::read_to_string(path).unwrap();
    // Three tokens of the vocabulary become the special ones.
    let mut file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let mut special = file["added_tokens"][2].clone();
    let merges = file["model"]["merges"].as_array_mut().unwrap();
    merges.truncate(merges.len() - 3);
    for (id, content) in [(1021, "<|fim_prefix|>"), (1022, "<|fim_suffix|>"), (1023, "<|fim_middle|>")] {
        let vocab = file["model"]["vocab"].as_object_mut().unwrap();
        vocab.retain(|_, old| *old != id);
        vocab.insert(content.into(), id.into());
        (special["id"], special["content"]) = (id.into(), content.into());
        file["added_tokens"].as_array_mut().unwrap().push(special.clone());
    }
    std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    let named = ["--tokenizer", folder.path().to_str().unwrap()];
    let args = ["infer", HEALTHY, "-p", "a", "--suffix", "b", "-n", "0", "--json"];
    let output = ckpt(&[&args[..], &named].concat());
    let record = output.json();
    let prompt: Vec<u64> =
        record["prompt"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert_eq!((prompt.len(), prompt[0], prompt[2], prompt[4]), (5, 1021, 1022, 1023), "{prompt:?}");
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_error() {
    let script = format!(
        "\"$0\" infer {HEALTHY} -p '#' -n 100000 --slide --ignore-eos | head -c 10; echo \" ${{PIPESTATUS[0]}}\""
    );
    let output = program().shell(&script);
    assert!(output.out().ends_with(" 0\n"), "{}", output.out());
}

#[cfg(unix)]
#[test]
fn a_signal_ends_it_with_what_was_there() {
    use std::io::Read;
    let program = program();
    let mut run = program.start(&["infer", HEALTHY, "-p", "#", "-n", "1000000", "--slide", "--ignore-eos"]);
    let mut first = [0; 4];
    run.child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    run.signal("INT");
    let output = run.end().exits(130);
    assert!(output.err().contains("interrupted"));
    assert!(output.out().ends_with('\n'));
}

/// One NaN in a matrix makes all logits NaN: no token is the most likely one.
#[test]
fn a_model_that_computes_nan_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nan.safetensors");
    let path = path.to_str().unwrap();
    ckpt(&["convert", HEALTHY, "--to", "safetensors", "-o", path]).exits(0);
    let whole = std::fs::read(path).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&whole[8..8 + header]).unwrap();
    // Where weights are rounded NaN would not show in what comes out, so it is told before.
    for (tensor, told) in [
        ("layers.0.mlp.gate_proj.weight", "gate_proj.weight` has values that are NaN or infinite"),
        ("layers.1.input_layernorm.weight", "input_layernorm.weight` has values that are NaN or infinite"),
        ("embed_tokens.weight", "NaN at position"),
    ] {
        let mut bytes = whole.clone();
        let entry = tensors.as_object().unwrap().iter().find(|(name, _)| name.ends_with(tensor));
        let entry = entry.unwrap().1;
        // Of the second row, which is a token's of the prompt, or in the first of a vector.
        let row = entry["shape"][1].as_u64().map_or(0, |width| 4 * width as usize);
        let at = 8 + header + entry["data_offsets"][0].as_u64().unwrap() as usize + row;
        bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(path, bytes).unwrap();
        let output = ckpt(&["infer", path, "--ids", "1,5,7", "-n", "4"]).exits(3);
        assert!(output.err().contains(told), "{}", output.err());
        assert!(output.out().is_empty());
    }
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let nothing: PathBuf = tempfile::tempdir().unwrap().path().join("none.pt");
    for (args, code, says) in [
        (&["infer", HEALTHY, "--ids", "1,1024"][..], 2, "outside the vocabulary of 1024"),
        (&["infer", HEALTHY, "--ids", "x"], 2, "invalid value"),
        (&["infer", HEALTHY], 2, "--ids"),
        (&["infer", HEALTHY, "-p", ""], 2, "prompt is empty"),
        (&["infer", HEALTHY, "-p", "a", "--ids", "1"], 2, "cannot be used with"),
        (&["infer", HEALTHY, "-p", "a", "--tokenizer", "Cargo.toml"], 3, "Cargo.toml"),
        (&["infer", HEALTHY, "-p", "a", "--tokenizer", "src"], 3, "contains neither"),
        (
            &["infer", "tests/fixtures/trajectories/init.pt", "-p", "a", "--tokenizer", "nowhere"],
            3,
            "nowhere",
        ),
        (&["infer", HEALTHY, "--ids", "1,2,3", "--max-seq-len", "2"], 2, "do not fit into a context of 2"),
        (&["infer", nothing.to_str().unwrap(), "--ids", "1"], 3, "none.pt"),
        (&["infer", "tests/fixtures/formats/tied.pt", "--ids", "1"], 3, "is not recognised as a model"),
        (&["infer", HEALTHY, "--ids", "1", "--attn-cap=-1"], 2, "a number above 0"),
        (&["infer", HEALTHY, "--ids", "1", "--max-seq-len", "0"], 2, "a whole number above 0"),
        (&["infer", HEALTHY, "--ids", "1", "--num-heads", "3"], 2, "by its tensors' shapes"),
        (&["infer", HEALTHY, "--ids", "1", "--context", "3"], 2, "--perplexity"),
        (&["infer", HEALTHY, "--ids", "1", "--top-p", "2"], 2, "from 0 to 1"),
        (&["infer", HEALTHY, "--ids", "1", "--temperature", "-1"], 2, "of 0 or more"),
        (&["infer", HEALTHY, "--perplexity", "nowhere.txt"], 3, "nowhere.txt"),
        (&["infer", HEALTHY, "--perplexity", "tests/fixtures/formats/tied.pt"], 3, "UTF-8"),
        (&["gate", HEALTHY, "--policy", "nowhere.toml"], 2, "nowhere.toml"),
    ] {
        let output = ckpt(args);
        let stderr = output.err();
        assert_eq!(output.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(says), "{args:?}: {stderr}");
        assert!(output.out().is_empty());
    }
}

#[test]
fn settings_that_contradict_the_checkpoint_are_wrong_usage() {
    for (flag, value) in
        [("--max-seq-len", "0"), ("--head-dim", "7"), ("--head-dim", "0"), ("--num-heads", "3")]
    {
        ckpt(&["infer", HEALTHY, "--ids", "1", "-n", "1", flag, value]).exits(2);
    }
    ckpt(&["inspect", HEALTHY, "--policy", "missing.toml"]).exits(2);
}

#[test]
fn a_tokenizer_that_is_not_json_gives_one_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let whole = std::fs::read_to_string(fixture("tokenizer.json")).unwrap();
    let decoder = whole.find("\"decoder\"").unwrap();
    for (from, to) in [("true", "tru"), ("true", "1e999"), ("ByteLevel", "Byte\\ud800Level")] {
        let at = decoder + whole[decoder..].find(from).unwrap();
        std::fs::write(&path, [&whole[..at], to, &whole[at + from.len()..]].concat()).unwrap();
        let output = ckpt(&["infer", HEALTHY, "-p", "x", "--tokenizer", text(&path)]).exits(3);
        assert_eq!(output.err().lines().count(), 1, "{to}: {output}");
        output.complains(&["is not a valid tokenizer.json"]);
    }
}

/// Parts of a tokenizer.json that do not fit each other make the library that reads it panic: one line says what is wrong.
#[test]
fn a_tokenizer_that_contradicts_itself_gives_one_error() {
    use serde_json::json;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let whole: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("tokenizer.json")).unwrap()).unwrap();
    let around =
        json!([{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    let template = json!({"type": "TemplateProcessing", "single": around, "pair": [], "special_tokens": {}});
    let pieces = json!({"type": "FixedLength", "length": 0});
    let map = json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAAA"});
    for (key, value, said) in [
        ("post_processor", template, "the token `<x>` around text and does not describe it"),
        ("pre_tokenizer", pieces, "pieces of no length"),
        ("normalizer", map, "contradict each other"),
    ] {
        let mut file = whole.clone();
        file[key] = value;
        std::fs::write(&path, file.to_string()).unwrap();
        let output = ckpt(&["infer", HEALTHY, "-p", "x", "--tokenizer", text(&path)]).exits(3);
        assert_eq!(output.err().lines().count(), 1, "{key}: {output}");
        output.complains(&[said]);
    }
    let mut file = whole;
    file["model"]["continuing_subword_prefix"] = "@@@@".into();
    std::fs::write(&path, file.to_string()).unwrap();
    let run = folder.path().join("run");
    let train = ["train", "--resume", HEALTHY, "--reset-optimizer", "--data", "README.md", "--steps", "2001"];
    for more in [&["infer", HEALTHY, "-p", "x"][..], &[&train[..], &["-o", text(&run)]].concat()] {
        let output = ckpt(&[more, &["--tokenizer", text(&path)]].concat());
        assert!(!output.err().contains("panicked"), "{output}");
        output.complains(&["which does not begin with `@@@@`"]);
    }
}

/// The reader of a pipe may come later, or never.
#[cfg(unix)]
#[test]
fn a_pipe_without_a_reader_does_not_keep_a_signal_waiting() {
    use std::process::Command;
    use std::time::{Duration, Instant};

    let program = program();
    let pipe = program.at("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let dump = ["infer", HEALTHY, "--ids", "87,280,295", "-n", "0", "--force", "--dump-logits", text(&pipe)];
    let run = program.start(&dump);
    let read = std::fs::read(&pipe).unwrap();
    run.end().exits(0);
    assert_eq!(ckpt_inspect::open_bytes("logits", read).unwrap().tensor("logits").unwrap().shape, [3, 1024]);

    let mut run = program.start(&dump);
    std::thread::sleep(Duration::from_secs(3));
    assert!(run.child.try_wait().unwrap().is_none(), "it waits for a reader");
    run.signal("TERM");
    let asked = Instant::now();
    while run.child.try_wait().unwrap().is_none() {
        assert!(asked.elapsed() < Duration::from_secs(60), "it goes on waiting");
        std::thread::sleep(Duration::from_millis(20));
    }
    run.end().exits(128 + 15);
}
