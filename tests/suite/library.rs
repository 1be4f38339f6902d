//! The command line as a function.

use ckpt::{Exit, run};

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
