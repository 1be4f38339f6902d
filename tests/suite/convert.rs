//! `ckpt convert` and `ckpt verify` as a user runs them: outputs that are complete or absent, exit codes, messages.

#[cfg(unix)]
use std::path::Path;
#[cfg(unix)]
use std::process::Command;

#[cfg(unix)]
use ckpt_kit::binary::Ran;
use ckpt_kit::binary::{Program, text};
use ckpt_kit::fixtures::{below, fixture};
use ckpt_kit::numbers::le;
use ckpt_kit::safetensors::{SafeTensors, raw};
use ckpt_kit::torch;

/// The program in its folder.
fn place() -> Program {
    crate::program().in_its_folder()
}

/// A sparse SafeTensors file of `mib` MiB of zeros in 1 MiB tensors.
#[cfg(unix)]
fn sparse_file(path: &Path, mib: usize) {
    let file = (0..mib).fold(SafeTensors::new(), |file, i| file.hole(&format!("w{i}"), &[1 << 18]));
    file.write_holes(path);
}

#[test]
fn every_target_says_what_was_written_and_verifies() {
    let place = place();
    let source = fixture("healthy-run/step-02000.pt");
    for (to, name, wanted) in [
        ("fp32", "a.pt", "24 bit-equal"),
        ("f16", "b.pt", "24 equal after rounding"),
        ("bf16", "c.safetensors", "24 equal after rounding"),
        ("i2s", "d.pt", "10 bit-equal, 14 ternary-equal"),
        ("i2s", "e.safetensors", "10 bit-equal, 14 ternary-equal"),
        ("safetensors", "f.safetensors", "24 bit-equal"),
        ("hf", "g", "24 bit-equal"),
        ("pt", "h.pt", "24 bit-equal"),
        ("npz", "k.npz", "24 bit-equal"),
        ("gguf", "j.gguf", "9 bit-equal, 15 within the precision of their blocks"),
    ] {
        let output = place.run(&["convert", text(&source), "--to", to, "-o", name]).exits(0);
        assert_eq!(output.out().lines().count(), 1, "one line");
        assert!(output.out().contains(&format!("verified: 24 tensors, {wanted}")), "{to}: {}", output.out());
        place.run(&["verify", text(&source), name]).exits(0);
    }
    place.run(&["convert", text(&source), "--to", "hf", "--packed", "-o", "i"]).exits(0);
    place.run(&["verify", "i", "d.pt"]).exits(0);
    let inspected = place.run(&["inspect", "e.safetensors", "--no-stats"]);
    assert!(inspected.out().contains("i2s_unscaled"), "{}", inspected.out());
    assert!(place.files().iter().all(|f| !f.starts_with(".ckpt-")), "{:?}", place.files());
}

/// Such as those of PyTorch's types of bits.
#[test]
fn a_tensor_that_is_not_read_is_not_left_out_without_a_word() {
    use ckpt_kit::pickle::{dict, pickle};
    let place = place();
    let tensor = |key: &str| torch::rebuild("FloatStorage", key, 64, 0, &[8, 8], &[8, 1]);
    let mut other = tensor("1");
    let at = other.windows(18).position(|bytes| bytes == b"_rebuild_tensor_v2").unwrap();
    other[at + 17] = b'9';
    let values: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.5) / 64.0).collect();
    let write = |name: &str, key: &str| {
        let object = pickle(2, &dict(&[("a.weight", tensor("0")), (key, other.clone())]));
        std::fs::write(place.at(name), torch::zip_of(&object, &[le(&values), le(&values)])).unwrap();
    };
    write("x.pt", "x.weight");
    place.run(&["gate", "x.pt"]).exits(0).says(&["doubt", "`x.weight` is created by _rebuild_tensor_v9"]);
    let convert = ["convert", "x.pt", "--to", "safetensors", "-o", "x.safetensors"];
    let refused = place.run(&convert).exits(3);
    refused.complains(&["`x.weight` is created by", "would be missing", "--allow-incomplete"]);
    assert!(!place.at("x.safetensors").exists());
    place.run(&[&convert[..], &["--allow-incomplete"]].concat()).exits(0);
    // Weights alone do without the optimizer's.
    write("y.pt", "optimizer.x");
    place.run(&["convert", "y.pt", "--to", "safetensors", "-o", "y.safetensors"]).exits(0);
}

#[test]
fn types_that_numpy_lacks_are_refused_with_the_way_out() {
    let place = place();
    let source = fixture("healthy-run/step-02000.pt");
    place.run(&["convert", text(&source), "--to", "bf16", "-o", "half.safetensors"]).exits(0);
    let npz = ["convert", "half.safetensors", "--to", "npz", "-o", "half.npz"];
    let output = place.run(&npz).exits(2);
    let wanted = "bfloat16, which NumPy cannot hold (try --dtype '*=f32')";
    assert!(output.err().contains(wanted), "{}", output.err());
    assert_eq!(place.files(), ["half.safetensors"]);
    let output = place.run(&[&npz[..], &["--dtype", "*=f32"]].concat()).exits(0);
    assert!(output.out().contains("24 equal after rounding"), "{}", output.out());
    assert!(output.err().contains("values other than tensors, such as config and step"), "{}", output.err());
}

#[test]
fn a_whole_run_goes_into_a_folder() {
    let place = place();
    let run = fixture("collapse-run");
    let output =
        place.run(&["convert", text(&run), "--to", "bf16", "--out-dir", "out/run", "--no-verify"]).exits(0);
    assert_eq!(output.out().lines().count(), 9);
    let written = std::fs::read_dir(place.at("out/run")).unwrap().count();
    assert_eq!(written, 9);
    assert!(place.at("out/run/step-04000.pt").exists());
    assert!(
        output.err().contains("step-04000.pt is weak ("),
        "a collapsed one is reported: {}",
        output.err()
    );
    assert!(!output.err().contains("step-00000.pt is"), "and no other: {}", output.err());

    // If one cannot be converted, the others still are, and the exit code shows it.
    let output = place
        .run(&["convert", text(&fixture("formats")), "--to", "safetensors", "--out-dir", "formats"])
        .exits(3);
    assert!(output.err().contains("truncated.pt") && output.err().contains("complex128"), "{}", output.err());
    let complex = output.err().lines().find(|line| line.contains("complex128")).unwrap().to_string();
    assert!(complex.contains(".pt: "), "names its file: {complex}");
    assert!(
        place.at("formats/whole.safetensors").exists() && !place.at("formats/truncated.safetensors").exists()
    );
}

/// Sources that are given by absolute and relative paths, through `..` and through links: outputs lie in the folder.
#[cfg(unix)]
#[test]
fn outputs_lie_in_their_folder_however_sources_are_given() {
    let place = place();
    let whole = std::fs::read(fixture("formats/whole.pt")).unwrap();
    for folder in ["run/deep", "up", "work"] {
        std::fs::create_dir_all(place.at(folder)).unwrap();
    }
    for file in ["c.pt", "run/a.pt", "run/deep/b.pt", "up/d.pt", "work/e.pt"] {
        std::fs::write(place.at(file), &whole).unwrap();
    }
    std::os::unix::fs::symlink("../run", place.at("work/link")).unwrap();
    let absolute = place.at("run/a.pt");
    for (given, outputs) in [
        (["../c.pt", text(&absolute)], ["c.npz", "run/a.npz"]),
        (["e.pt", "../up/d.pt"], ["work/e.npz", "up/d.npz"]),
        (["link/a.pt", "../work/../run/deep/b.pt"], ["a.npz", "deep/b.npz"]),
    ] {
        let args = [&["convert"][..], &given, &["--to", "npz", "--out-dir", "out", "--force"]].concat();
        let output = Ran::of(place.command(&args).current_dir(place.at("work"))).exits(0);
        for name in outputs {
            assert!(place.at("work/out").join(name).exists(), "{given:?}: {}", output.out());
        }
        std::fs::remove_dir_all(place.at("work/out")).unwrap();
    }
    assert_eq!(place.files(), ["c.pt", "run", "up", "work"]);
    assert_eq!(std::fs::read_dir(place.at("up")).unwrap().count(), 1);
    assert!(std::fs::read(&absolute).unwrap() == whole);
}

#[test]
fn no_output_replaces_what_is_read_from() {
    let place = place();
    let whole = std::fs::read(fixture("formats/whole.pt")).unwrap();
    std::fs::write(place.at("a.pt"), &whole).unwrap();
    std::fs::create_dir(place.at("other")).unwrap();
    std::fs::write(place.at("other/b.pt"), &whole).unwrap();
    place.run(&["convert", "a.pt", "--to", "hf", "-o", "model"]).exits(0);
    for args in [
        &["convert", "a.pt", "--to", "f16", "-o", "a.pt"][..],
        &["convert", "a.pt", "--to", "f16", "--out-dir", "."],
        &["convert", "other/b.pt", "a.pt", "--to", "f16", "-o", "other/../a.pt"],
        &["convert", "a.pt", "other/b.pt", "--to", "f16", "--out-dir", "."],
        &["convert", "model", "--to", "hf", "-o", "model"],
        &["convert", "model", "--to", "safetensors", "-o", "model/model.safetensors"],
        &["gate", "a.pt", "-o", "a.pt"],
        &["gate", "other", "--also", "junit=other/b.pt"],
        &["gate", "other", "--baseline", "a.pt", "-o", "a.pt"],
        &["report", "model", "--format", "json", "-o", "model/model.safetensors"],
        &["scan", "other", "-o", "other/b.pt"],
        &["browse", "a.pt", "--snapshot", "a.pt"],
        &["infer", "a.pt", "--ids", "1", "--dump-logits", "a.pt"],
        &["recover", "model", "-o", "model/model.safetensors"],
    ] {
        place.run(&[args, &["--force"]].concat()).exits(2);
        assert!(std::fs::read(place.at("a.pt")).unwrap() == whole, "{args:?}");
        assert!(std::fs::read(place.at("other/b.pt")).unwrap() == whole, "{args:?}");
    }
    place.run(&["verify", "model", "a.pt"]).exits(0);
}

#[test]
fn block_formats_that_are_made_ternary_are_compared_by_their_steps() {
    let place = place();
    let source = fixture("healthy-run/step-02000.pt");
    for quant in ["q4_0", "q8_0"] {
        let gguf = ["convert", text(&source), "--to", "gguf", "--quant", quant, "--latent", "-o", "q.gguf"];
        place.run(&[&gguf[..], &["--force"]].concat()).exits(0);
        let ternary = ["convert", "q.gguf", "--to", "gguf", "--ternary", "blk*", "-o", "t.gguf", "--force"];
        let output = place.run(&ternary).exits(0);
        assert!(
            output.out().contains("10 bit-equal, 14 within the precision of their blocks"),
            "{}",
            output.out()
        );
    }
}

/// A copy of a damaged checkpoint would look whole.
#[test]
fn a_damaged_checkpoint_is_neither_converted_nor_verified() {
    let place = place();
    let whole = fixture("formats/whole.pt");
    let bytes = std::fs::read(&whole).unwrap();
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|w| w == what).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(place.at(name), bytes).unwrap();
    write("no-directory.pt", &bytes[..find(&bytes, b"PK\x01\x02")]);
    let mut pickle = bytes.clone();
    // A name in data.pkl becomes another one.
    pickle[find(&bytes, b"layers.3.w")] ^= 1;
    write("pickle.pt", &pickle);
    let convert = |to: &str, more: &[&str], name: &str| {
        place.run(&[&["convert", text(&whole), "--to", to, "-o", name], more].concat()).exits(0);
    };
    convert("npz", &[], "whole.npz");
    let npz = std::fs::read(place.at("whole.npz")).unwrap();
    write("half.npz", &npz[..npz.len() / 2]);
    write("no-directory.npz", &npz[..find(&npz, b"PK\x01\x02")]);
    for (to, folder, extension) in [("safetensors", "shards", "safetensors"), ("gguf", "splits", "gguf")] {
        convert(to, &["--max-shard-size", "1kB"], folder);
        let files = below(&place.at(folder), &[&format!(".{extension}")]);
        assert!(files.len() > 1);
        std::fs::remove_file(&files[files.len() - 1]).unwrap();
    }
    let header = r#"{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},"b":{"dtype":"F32","shape":[8],"data_offsets":[16,48]}}"#;
    write("overlap.safetensors", &raw(header, &[0; 48]));
    for source in [
        "no-directory.pt",
        "pickle.pt",
        "half.npz",
        "no-directory.npz",
        "shards",
        "splits",
        "overlap.safetensors",
    ] {
        place.run(&["inspect", source, "--no-stats"]).exits(3);
        for args in [
            &["convert", source, "--to", "fp32", "-o", "copy.pt"][..],
            &["convert", source, "--to", "fp32", "-o", "copy.pt", "--no-verify"],
            &["verify", source, source],
        ] {
            let output = place.run(args).exits(3);
            assert!(output.err().contains("`ckpt recover`"), "{args:?}: {}", output.err());
            assert!(!place.at("copy.pt").exists(), "{args:?}");
        }
    }
}

/// Weights of a usual size in bf16, of which the smallest have fewer bits in f16.
#[test]
fn bf16_becomes_f16_and_verifies() {
    let place = place();
    // From 2^-26 to 1, whose last bits f16 holds from 2^-17 on.
    let values: Vec<u16> = (0..4096u32).map(|i| (((101 + i % 27) << 7) | ((i * 37) % 128)) as u16).collect();
    let file = SafeTensors::new().tensor("w", "BF16", &[64, 64], &le(&values));
    file.write(&place.at("w.safetensors"));
    let output = place.run(&["convert", "w.safetensors", "--to", "f16", "-o", "f16.safetensors"]).exits(0);
    assert!(output.out().contains("1 equal after rounding"), "{}", output.out());
    place.run(&["verify", "w.safetensors", "f16.safetensors"]).exits(0);
    place.run(&["verify", "f16.safetensors", "w.safetensors"]).exits(0);
    // The other way round bf16 loses bits of f16's.
    place.run(&["convert", "f16.safetensors", "--to", "bf16", "-o", "back.safetensors"]).exits(0);

    // A difference of one step of f16 is a difference, although bf16 rounds it away.
    let mut wrong = std::fs::read(place.at("f16.safetensors")).unwrap();
    let last = wrong.len() - 2;
    wrong[last] ^= 1;
    std::fs::write(place.at("wrong.safetensors"), wrong).unwrap();
    place.run(&["verify", "w.safetensors", "wrong.safetensors"]).exits(1);
}

/// A copy in a wider type is what it was made of, to the bit, when it is checked as a copy; of two files of which either may be
/// the rounded one, it is said which is.
#[test]
fn it_is_said_which_side_is_rounded() {
    let place = place();
    let values: Vec<u16> = (0..4096u32).map(|i| (((101 + i % 27) << 7) | ((i * 37) % 128)) as u16).collect();
    SafeTensors::new().tensor("w", "BF16", &[64, 64], &le(&values)).write(&place.at("w.safetensors"));
    let output = place.run(&["convert", "w.safetensors", "--to", "fp32", "-o", "f32.safetensors"]).exits(0);
    assert!(
        output.out().contains("1 equal after rounding") && !output.out().contains("rounded:"),
        "{}",
        output.out()
    );
    let mut wrong = std::fs::read(place.at("f32.safetensors")).unwrap();
    let last = wrong.len() - 4;
    wrong[last] ^= 1;
    std::fs::write(place.at("other.safetensors"), wrong).unwrap();
    let output = place.run(&["verify", "w.safetensors", "other.safetensors"]).exits(0);
    assert!(output.out().contains("(rounded: the first in 1 element)"), "{}", output.out());
    let output = place.run(&["verify", "other.safetensors", "w.safetensors"]).exits(0);
    assert!(output.out().contains("(rounded: the second in 1 element)"), "{}", output.out());
}

#[test]
fn an_existing_output_is_replaced_only_with_force() {
    let place = place();
    let source = fixture("formats/whole.pt");
    std::fs::write(place.at("out.pt"), "precious").unwrap();
    let output = place.run(&["convert", text(&source), "--to", "pt", "-o", "out.pt"]).exits(4);
    assert!(output.err().contains("--force"), "{}", output.err());
    assert_eq!(std::fs::read(place.at("out.pt")).unwrap(), b"precious");
    place.run(&["convert", text(&source), "--to", "pt", "-o", "out.pt", "--force"]).exits(0);
    place.run(&["verify", text(&source), "out.pt"]).exits(0);

    // A folder is replaced when it holds a conversion, and never when it holds anything else.
    let student = fixture("healthy-run/step-02000.pt");
    let hf = ["convert", text(&student), "--to", "hf", "-o", "hf"];
    place.run(&hf).exits(0);
    place.run(&hf).exits(4);
    place.run(&[&hf[..], &["--force", "--max-shard-size", "300kB"]].concat()).exits(0);
    assert!(
        place.at("hf/model.safetensors.index.json").exists() && !place.at("hf/model.safetensors").exists()
    );
    std::fs::write(place.at("hf/thesis.tex"), "precious").unwrap();
    let output = place.run(&[&hf[..], &["--force"]].concat()).exits(4);
    assert!(output.err().contains("thesis.tex"), "{}", output.err());
    assert_eq!(std::fs::read(place.at("hf/thesis.tex")).unwrap(), b"precious");
    assert_eq!(place.files(), ["hf", "out.pt"]);
}

#[cfg(unix)]
#[test]
fn files_and_folders_alone_are_replaced() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let place = place();
    let source = fixture("formats/whole.pt");
    assert!(Command::new("mkfifo").arg(place.at("pipe")).status().unwrap().success());
    std::fs::write(place.at("file"), "precious").unwrap();
    std::fs::create_dir(place.at("folder")).unwrap();
    symlink("nowhere", place.at("lost")).unwrap();
    symlink("file", place.at("link")).unwrap();
    for (to, name, wanted) in [
        ("pt", "pipe", "is a pipe or a device"),
        ("hf", "pipe", "is a pipe or a device"),
        ("hf", "file", "is a file, where a folder is to be written"),
        ("pt", "folder", "is a folder, where a file is to be written"),
        ("pt", "lost", "link to a file that does not exist"),
    ] {
        let output = place.run(&["convert", text(&source), "--to", to, "-o", name, "--force"]).exits(4);
        let message = output.err();
        assert!(message.contains(wanted) && !message.contains("--force replaces"), "{to} {name}: {message}");
    }
    assert!(place.at("pipe").symlink_metadata().unwrap().file_type().is_fifo());
    // A link stays one, and what it leads to is replaced.
    place.run(&["convert", text(&source), "--to", "pt", "-o", "link"]).exits(4);
    assert_eq!(std::fs::read(place.at("file")).unwrap(), b"precious");
    place.run(&["convert", text(&source), "--to", "pt", "-o", "link", "--force"]).exits(0);
    assert!(place.at("link").is_symlink());
    place.run(&["verify", text(&source), "file"]).exits(0);
}

#[test]
fn what_cannot_be_done_is_reported() {
    let place = place();
    let student = fixture("healthy-run/step-02000.pt");
    std::fs::copy(&student, place.at("model.pt")).unwrap();
    std::fs::write(place.at("tokenizer.json"), "{\"model\": ").unwrap();
    for (args, wanted) in [
        (
            vec!["--to", "pt", "-o", "a.pt", "--dtype", "nomatch*=f16"],
            "no tensor of the output matches the pattern 'nomatch*'",
        ),
        (vec!["--to", "hf", "-o", "a", "--max-shard-size", "20kB"], "each gets a file of its own"),
        (vec!["--to", "hf", "-o", "b"], "`tokenizer.json` next to the source is not valid JSON"),
        (vec!["--to", "pt", "-o", "d.pt", "--dtype", "embed*=f16"], ""),
    ] {
        let output = place.run(&[&["convert", "model.pt"][..], &args[..]].concat()).exits(0);
        assert!(output.err().contains(wanted), "{args:?}: {}", output.err());
    }
    let root = ["convert", text(&student), "--to", "pt", "-o", "c.pt", "--root", "optimizer_state_dict"];
    let output = place.run(&root).exits(2);
    assert!(output.err().contains("training state"), "{}", output.err());
}

#[test]
fn a_collapsed_checkpoint_is_refused_under_strict() {
    let place = place();
    let dead = fixture("collapse-run/step-04000.pt");
    let strict = ["convert", text(&dead), "--to", "f16", "-o", "dead.pt", "--strict"];
    let output = place.run(&strict).exits(1);
    assert!(output.err().contains("--allow-collapsed"), "{}", output.err());
    assert_eq!(place.files(), [""; 0]);
    place.run(&[&strict[..], &["--allow-collapsed"]].concat()).exits(0);
    let healthy = fixture("healthy-run/step-02000.pt");
    place.run(&["convert", text(&healthy), "--to", "f16", "-o", "well.pt", "--strict"]).exits(0);
}

#[test]
fn names_of_the_bitnet_model_are_known_by_their_old_word() {
    let place = place();
    let source = fixture("healthy-run/step-02000.pt");
    for (names, output) in [("bitnet", "new.safetensors"), ("student", "old.safetensors")] {
        let args = ["convert", text(&source), "--to", "safetensors", "--names", names, "-o", output];
        place.run(&args).exits(0);
    }
    let bytes = |name: &str| std::fs::read(place.at(name)).unwrap();
    assert!(bytes("old.safetensors") == bytes("new.safetensors"));
    let help = place.run(&["convert", "--help"]);
    assert!(help.out().contains("bitnet") && !help.out().contains("- student"), "{}", help.out());
}

#[test]
fn errors_of_usage_say_what_to_do() {
    let place = place();
    let source = fixture("formats/whole.pt");
    let source = text(&source);
    for (args, wanted) in [
        (vec!["--to", "pt"], "-o PATH"),
        (vec!["--to", "pt", "-o", "x.pt", "--dtype", "embed"], "GLOB=TYPE"),
        (vec!["--to", "pt", "-o", "x.pt", "--dtype", "a=int4"], "one of f64, f32, f16, bf16"),
        (vec!["--to", "pt", "-o", "x.pt", "--packed"], "--to hf"),
        (vec!["--to", "pt", "-o", "x.pt", "--root", "ema"], "model_state_dict"),
        (vec!["--to", "pt", "-o", "x.pt", "--max-shard-size", "1GB"], "safetensors, hf or gguf"),
        (vec!["--to", "safetensors", "-o", "x.safetensors", "--max-shard-size", "1GB"], "folder"),
        (vec!["--to", "safetensors", "-o", "x", "--max-shard-size", "1XB"], "5GB"),
        (vec!["--to", "safetensors", "-o", "x", "--max-shard-size", "0"], "must be at least 1 byte"),
        (vec!["--to", "safetensors", "-o", "x", "--max-shard-size", "-1"], "must be at least 1 byte"),
        (vec!["--to", "safetensors", "-o", "x", "--max-shard-size", "1e10GB"], "must be less than"),
        (vec!["--to", "i2s", "-o", "x.gguf"], "writes a .pt file; give -o x.pt, or --to gguf"),
        (vec!["--to", "f16", "-o", "a/x.npz"], "writes a .pt file; give -o a/x.pt, or --to npz"),
        (vec!["--to", "gguf", "-o", "x.safetensors"], "give -o x.gguf, or --to safetensors"),
        (vec!["--to", "npz", "-o", "x.pt"], "give -o x.npz, or --to pt"),
        (vec!["--to", "i2s", "-o", "x.pt"], "--ternary"),
        (vec!["--to", "hf", "--packed", "--ternary", "*w", "-o", "x"], "in the output, matches '*w'"),
        (vec!["--to", "gguf", "--quant", "i2_s", "--ternary", "zz*", "-o", "x"], "no matrix matches 'zz*'"),
        (vec!["--to", "pt", "-o", "-"], "give a file name"),
        (vec!["--to", "safetensors", "-o", "x.safetensors", "--keep-optimizer"], "PyTorch"),
    ] {
        let output = place.run(&[&["convert", source][..], &args[..]].concat()).exits(2);
        assert!(output.err().contains(wanted), "{args:?}: {}", output.err());
    }
    place.run(&["convert", "nothing.pt", "--to", "pt", "-o", "x.pt"]).exits(3);
    assert_eq!(place.files(), [""; 0]);
}

#[test]
fn verify_reports_and_exits_by_what_it_finds() {
    let place = place();
    let (a, b) = (fixture("healthy-run/step-01000.pt"), fixture("healthy-run/step-02000.pt"));
    let output = place.run(&["verify", text(&a), text(&b)]).exits(1);
    assert!(output.out().contains("differs: ") && output.out().contains("mlp.gate_proj.weight"));
    let output = place.run(&["verify", text(&a), text(&a), "--format", "json"]).exits(0);
    let report: serde_json::Value = output.json();
    assert_eq!(report["agrees"], true);
    assert_eq!(report["tensors"].as_array().unwrap().len(), 24);
    let first = &report["tensors"][0];
    for key in
        ["name", "other", "dtypes", "rule", "agrees", "elements", "differing", "first", "worst", "detail"]
    {
        assert!(first.get(key).is_some(), "{key}");
    }
    let output =
        place.run(&["verify", text(&a), text(&fixture("formats/whole.pt")), "--format", "json"]).exits(1);
    let report: serde_json::Value = output.json();
    assert_eq!(report["missing"].as_array().unwrap().len(), 24);
    place.run(&["verify", text(&a), "nothing.pt"]).exits(3);
}

/// PyTorch ignores a checksum that does not match; a copy would hide it.
#[test]
fn a_checksum_that_does_not_match_is_neither_verified_nor_converted() {
    let place = place();
    let flipped = fixture("formats/bitflip.pt");
    let convert = ["convert", text(&flipped), "--to", "safetensors", "-o", "copy.safetensors"];
    for args in [&["verify", text(&flipped), text(&flipped)][..], &convert] {
        let output = place.run(args).exits(3);
        assert!(output.err().contains("checksum mismatch"), "{}", output.err());
    }
    assert_eq!(place.files(), [""; 0]);
    place.run(&[&convert[..], &["--no-verify"]].concat()).exits(0);
}

#[cfg(unix)]
#[test]
fn a_size_limit_leaves_nothing() {
    let place = place();
    let source = fixture("healthy-run/step-02000.pt");
    for to in ["pt", "safetensors", "hf", "fp32", "npz", "gguf --latent --quant f32"] {
        let script = format!("ulimit -f 200; exec \"$0\" convert {} --to {to} -o out", text(&source));
        let output = place.shell(&script).exits(4);
        assert!(output.err().contains("cannot be written"), "{}", output.err());
        assert_eq!(place.files(), [""; 0], "{to}");
    }
}

/// Needs permission to mount; without it, says that it skips.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_seen_before_the_first_byte() {
    let place = place();
    let disk = place.at("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs", text(&disk)]).output();
    if !mounted.is_ok_and(|m| m.status.success()) {
        eprintln!("skipped: a small tmpfs cannot be mounted here");
        return;
    }
    let source = fixture("healthy-run/step-02000.pt");
    let output = place.run(&["convert", text(&source), "--to", "safetensors", "-o", "disk/out.safetensors"]);
    let left = std::fs::read_dir(&disk).unwrap().count();
    let unmounted = Command::new("umount").arg(&disk).status().unwrap();
    let output = output.exits(4);
    assert!(output.err().contains("has 262144 left"), "{}", output.err());
    assert_eq!(left, 0);
    assert!(unmounted.success());
}

/// Starts a conversion long enough to be interrupted, waits for its temporary file, and sends it a signal.
#[cfg(unix)]
fn interrupted(place: &Program, signal: &str) -> Ran {
    use std::time::{Duration, Instant};

    sparse_file(&place.at("in.safetensors"), 1024);
    let run = place.start(&["convert", "in.safetensors", "--to", "f16", "-o", "out.pt"]);
    let start = Instant::now();
    while !place.files().iter().any(|f| f.starts_with(".ckpt-")) {
        assert!(start.elapsed() < Duration::from_secs(60), "no temporary file appeared");
        assert!(!place.at("out.pt").exists(), "it was done before it could be interrupted");
        std::thread::sleep(Duration::from_millis(1));
    }
    run.signal(signal);
    run.end()
}

#[cfg(unix)]
#[test]
fn an_interrupted_conversion_removes_what_it_began() {
    for (signal, number) in [("INT", 2), ("TERM", 15)] {
        let place = place();
        let output = interrupted(&place, signal).exits(128 + number);
        assert!(output.err().contains("stopped; nothing was written to out.pt"), "{}", output.err());
        assert_eq!(place.files(), ["in.safetensors"]);
    }
}

#[cfg(unix)]
#[test]
fn a_killed_conversion_leaves_nothing_under_the_final_name() {
    let place = place();
    let output = interrupted(&place, "KILL");
    assert_eq!(output.code(), None);
    assert!(!place.at("out.pt").exists());
    // The leftover does not prevent another conversion, and is not taken for a checkpoint.
    sparse_file(&place.at("in.safetensors"), 2);
    place.run(&["convert", "in.safetensors", "--to", "f16", "-o", "out.pt"]).exits(0);
    // And it is gone now.
    assert_eq!(place.files(), ["in.safetensors", "out.pt"]);
}
