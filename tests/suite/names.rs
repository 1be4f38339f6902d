//! Files and tensors with names that would steer a terminal, a log of a CI system, or a spreadsheet.

use std::path::Path;

use ckpt_kit::safetensors::SafeTensors;

use crate::program;

const TENSORS: [&str; 4] = [
    "::error::w\u{1b}[31m\u{202e}",
    "=cmd|' /C calc'!A0,\"quoted\"",
    "a\n::error file=x,title=y::z\r\n##[error]b",
    "layers.0.mlp\u{7}\u{200b}\u{9b}31m",
];
const FILE: &str = "::error::f\u{1b}[2J,\"a\"\n::warning::b\u{202e}.safetensors";
const RUN: &str = "::notice::r\u{7f}\u{202e}";

/// Four matrices of no numbers, which are corrupt whatever they are for.
fn write(path: &Path) {
    let nan = [f32::NAN; 16];
    let file = TENSORS.iter().fold(SafeTensors::new(), |file, name| file.f32s(name, &[4, 4], &nan));
    file.write(path);
}

/// A run, called like the file, whose matrices shrink.
fn write_run(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    for step in 0..6u32 {
        let mut file = SafeTensors::new().metadata(serde_json::json!({"step": (100 * step).to_string()}));
        let size = 0.25 * 0.2f32.powi(step as i32);
        for (i, name) in TENSORS.iter().enumerate() {
            let values: Vec<f32> = (256 * i..256 * (i + 1)).map(|i| size * (i as f32 * 1.7).sin()).collect();
            file = file.f32s(&format!("{name}.weight"), &[16, 16], &values);
        }
        file.write(&folder.join(format!("{FILE}-step-{step}.safetensors")));
    }
}

/// Text that neither controls a terminal, nor is hidden, nor is an unintended command in a log.
fn harmless(what: &str, text: &str, commands: bool) {
    let hostile = |c: char| {
        c.is_control() && c != '\n' || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
    };
    assert!(!text.contains(hostile), "{what}: {text:?}");
    for line in text.lines() {
        let line = line.trim_start();
        let meant = line.starts_with("::error file=") && line.contains(",title=ckpt gate");
        assert!(commands && meant || !line.starts_with("::"), "{what}: {line:?}");
        assert!(commands || !line.starts_with("##["), "{what}: {line:?}");
    }
}

#[test]
fn hostile_names_are_shown_as_text_by_every_command() {
    let program = program().in_its_folder();
    let at = |name: &str| program.at(name);
    write(&at(FILE));
    std::fs::copy(at(FILE), at("plain.safetensors")).unwrap();
    write_run(&at(RUN));
    for args in [
        &["inspect", FILE][..],
        &["inspect", FILE, "--all"],
        &["inspect", FILE, "plain.safetensors"],
        &["inspect", FILE, "--tensor", TENSORS[0]],
        &["diff", FILE, "plain.safetensors", "--all"],
        &["gate", FILE],
        &["gate", FILE, "--format", "junit"],
        &["gate", FILE, "--format", "github"],
        &["scan", FILE, "--all"],
        &["report", FILE, "--format", "csv"],
        &["report", FILE, "--format", "md"],
        &["report", FILE, "--explain"],
        &["report", FILE, "--format", "html", "-o", "file.html"],
        &["report", RUN, "--format", "html", "-o", "run.html"],
        &["report", RUN, "--format", "md"],
        &["gate", FILE, "--format", "sarif"],
        &["gate", FILE, "--format", "json"],
        &["inspect", FILE, "--format", "json"],
        &["inspect", FILE, "--format", "ndjson"],
        &["inspect", FILE, "--format", "csv"],
        &["gate", FILE, "--write-accepted", "known.json"],
        &["gate", "plain.safetensors", "--ignore", "::error::\u{1b}", "--accept", "known.json"],
        &["diff", FILE, "plain.safetensors", "--format", "json"],
        &["scan", FILE, "--format", "json"],
        &["report", FILE, "--format", "json"],
        &["verify", FILE, "plain.safetensors", "--format", "json"],
        &["report", FILE, "-o", "::error::\u{1b}.md"],
        &["verify", FILE, "plain.safetensors"],
        &["convert", FILE, "--to", "f16", "-o", "::error::\u{1b}.pt"],
        &["convert", FILE, "--to", "f16", "-o", "::error::\u{1b}.pt"],
        &["convert", FILE, "--to", "gguf", "-o", "out.gguf"],
        &["recover", FILE, "-o", "::error::\u{1b}.safetensors"],
    ] {
        let output = program.run(args);
        let (out, err) = (output.out(), output.err());
        assert!(output.code().is_some_and(|code| code != 2), "{args:?}: {err}");
        assert!(!out.is_empty() || !err.is_empty(), "{args:?}");
        harmless(&format!("{args:?}"), out, args.contains(&"github"));
        harmless(&format!("{args:?}"), err, false);
    }
    // Refused, with the file named.
    let refused = program.run(&["convert", FILE, "--to", "i2s", "-o", "out.pt"]).exits(2);
    let err = refused.err();
    assert!(err.contains("--ternary"), "{err}");
    harmless("i2s", err, false);
    harmless("known.json", &std::fs::read_to_string(at("known.json")).unwrap(), false);
    for page in ["::error::\u{1b}.md", "file.html", "run.html"] {
        let text = std::fs::read_to_string(at(page)).unwrap();
        harmless(page, &text, false);
        assert!(text.contains("mlp\\u{7}\\u{200b}\\u{9b}31m"), "{page}");
    }
    // The run's page has everything that a page can have: lines, marks, a cause.
    let page = std::fs::read_to_string(at("run.html")).unwrap();
    for part in ["<table class=\"heat\"", "<circle", "<title>", "class=\"card cause\"", "class=\"legend\""] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn a_table_has_a_line_a_tensor_whatever_its_name() {
    let program = program().in_its_folder();
    write(&program.at(FILE));
    let output = program.run(&["report", FILE, "--format", "csv"]);
    let text = output.out();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + TENSORS.len(), "{text}");
    // RFC 4180: quoted where a comma or a quote is, quotes doubled.
    assert!(text.contains("\"'=cmd|' /C calc'!A0,\"\"quoted\"\"\""), "{text}");
    assert!(text.contains("\\u{3a}:error::w\\u{1b}[31m\\u{202e}"), "{text}");
}
