//! The command line as a function.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ckpt::{Captured, Exit, Level, capture, run};
use ckpt_inspect::ErrorKind;
use ckpt_kit::binary::Program;

fn fixture(name: &str) -> String {
    ckpt_kit::fixtures::fixture(name).display().to_string()
}

#[test]
fn it_ends_as_the_program_does() {
    let gate = |name: &str| run(["ckpt", "gate", "--no-cache", &fixture(name)]);
    assert_eq!(gate("healthy-run/step-02000.pt"), Exit::Fine);
    assert_eq!(gate("collapse-run/step-04000.pt"), Exit::Refused);
    assert_eq!(run(["ckpt", "inspect", "--no-such-flag"]), Exit::Usage);
    assert_eq!(run(["ckpt", "inspect", "--no-cache", "/nowhere.pt"]), Exit::Unreadable);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("there.md");
    std::fs::write(&output, "kept").unwrap();
    let report = ["ckpt", "report", "--no-cache", &fixture("healthy-run/step-02000.pt"), "-o"];
    assert_eq!(run(report.into_iter().chain([output.to_str().unwrap()])), Exit::Unwritable);
    assert_eq!(std::fs::read(&output).unwrap(), b"kept");
    assert_eq!(run(["ckpt", "--version"]), Exit::Fine);
}

/// A build has the commands of its features, and no others.
#[test]
fn commands_are_those_of_the_features() {
    let commands = [
        ("inspect", true),
        ("recover", true),
        ("edit", true),
        ("browse", cfg!(feature = "browse")),
        ("infer", cfg!(feature = "infer")),
        ("chat", cfg!(feature = "infer")),
        ("bench", cfg!(feature = "infer")),
        ("diagnose", cfg!(feature = "diagnose")),
        ("train", cfg!(feature = "train")),
    ];
    for (command, there) in commands {
        assert_eq!(run(["ckpt", command, "--help"]) == Exit::Fine, there, "{command}");
    }
}

#[test]
fn codes_are_those_of_the_manual() {
    let codes = [Exit::Fine, Exit::Refused, Exit::Usage, Exit::Unreadable, Exit::Unwritable, Exit::Signal(2)];
    assert_eq!(codes.map(Exit::code), [0, 1, 2, 3, 4, 130]);
}

fn captured<const N: usize>(args: [&str; N]) -> Captured {
    capture(["ckpt"].into_iter().chain(args), &Arc::default())
}

#[test]
fn what_it_would_print_is_returned() {
    let healthy = fixture("healthy-run/step-02000.pt");
    let program = Program::new(env!("CARGO_BIN_EXE_ckpt"));
    for args in [
        vec!["inspect", "--no-cache", "--format", "json", &healthy],
        vec!["inspect", "--no-cache", "--color", "always", &healthy],
        vec!["gate", "--no-cache", "--format", "json", &healthy],
        vec!["scan", &healthy],
        vec!["completions", "bash"],
        vec!["diff", &healthy, &healthy],
        vec!["--version"],
        vec!["gate", "--help"],
    ] {
        let ran = program.run(&args);
        let captured = capture(["ckpt"].into_iter().chain(args.iter().copied()), &Arc::default());
        assert_eq!(captured.exit.code(), ran.code().unwrap() as u8, "{args:?}");
        let printed = anstream::adapter::strip_str(ran.out()).to_string();
        assert_eq!(captured.output, printed, "{args:?}");
        assert_eq!(captured.messages, [], "{args:?}");
    }
}

#[test]
fn messages_keep_what_they_are_about() {
    let missing = captured(["inspect", "--no-cache", "/nowhere.pt"]);
    let [message] = missing.messages.as_slice() else { panic!("{missing:?}") };
    assert_eq!((message.level, message.kind), (Level::Error, Some(ErrorKind::Io)));
    assert_eq!(message.file.as_deref(), Some(Path::new("/nowhere.pt")));
    assert!(message.text.starts_with("/nowhere.pt: "), "{}", message.text);

    let wrong = captured(["gate", "--max-dead", "many", "x.pt"]);
    assert_eq!((wrong.exit, wrong.messages.len()), (Exit::Usage, 1));
    assert!(wrong.messages[0].text.starts_with("invalid value 'many'"), "{:?}", wrong.messages);

    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("copy.safetensors").display().to_string();
    let dead = fixture("collapse-run/step-04000.pt");
    let converted = captured(["convert", &dead, "--to", "safetensors", "-o", &output, "--no-cache"]);
    assert_eq!(converted.exit, Exit::Fine, "{converted:?}");
    assert!(converted.messages.iter().any(|m| m.level == Level::Warning), "{converted:?}");
    assert!(converted.output.contains("copy.safetensors"));
}

#[test]
fn calls_at_once_get_their_own_output() {
    let paths: Vec<String> = ["healthy-run/step-02000.pt", "collapse-run/step-04000.pt", "packed", "formats"]
        .map(fixture)
        .into_iter()
        .chain(["/nowhere.pt".to_string()])
        .collect();
    let inspect = |path: &str| captured(["inspect", "--no-cache", "--format", "ndjson", path]);
    // Lines of many checkpoints are written as they come.
    let lines = |captured: Captured| {
        let mut lines: Vec<String> = captured.output.lines().map(String::from).collect();
        lines.sort();
        (captured.exit, lines, captured.messages)
    };
    let alone: Vec<_> = paths.iter().map(|path| lines(inspect(path))).collect();
    let again = |path: &str| lines(inspect(path));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            for (path, alone) in paths.iter().zip(&alone) {
                let again = &again;
                scope.spawn(move || assert_eq!(again(path), *alone, "{path}"));
            }
        }
    });
}

#[test]
fn a_call_that_is_stopped_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let output = output.to_str().unwrap();
    let healthy = fixture("healthy-run/step-02000.pt");
    let stop = Arc::new(AtomicBool::new(true));
    for args in [
        vec!["inspect", "--no-cache", &healthy],
        vec!["gate", "--no-cache", &healthy, "-o", output],
        vec!["report", "--no-cache", &healthy, "-o", output, "--format", "html"],
        vec!["convert", "--no-cache", &healthy, "--to", "safetensors", "-o", output],
        vec!["diff", &healthy, &healthy],
        vec!["scan", &healthy, "-o", output],
    ] {
        let stopped = capture(["ckpt"].into_iter().chain(args.iter().copied()), &stop);
        assert_eq!((stopped.exit, stopped.output.as_str()), (Exit::Signal(2), ""), "{args:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{args:?}");
    }
}

#[cfg(feature = "browse")]
#[test]
fn what_needs_a_terminal_refuses() {
    let healthy = fixture("healthy-run/step-02000.pt");
    let browse = captured(["browse", &healthy]);
    assert_eq!(browse.exit, Exit::Usage, "{browse:?}");
    #[cfg(feature = "infer")]
    assert_eq!(captured(["chat", &healthy]).exit, Exit::Usage);
}
