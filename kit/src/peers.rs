//! Others who are asked what they make of a file: a Python with the packages that everyone else reads checkpoints with.
//!
//! `CKPT_PEERS_PYTHON` names it. Without one a test that asks says that it skips, or fails where `CKPT_REQUIRE_PEERS=1`.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::fixtures::root;

/// A Python that has what is asked for.
pub struct Python(OsString);

/// The Python with `packages`, or nothing where a test may skip.
pub fn python(packages: &[&str]) -> Option<Python> {
    const FIND: &str =
        "import importlib.util as i, sys; sys.exit(any(i.find_spec(p) is None for p in sys.argv[1:]))";
    let has = |python: &OsString| {
        let asked = Command::new(python).args(["-c", FIND]).args(packages).output();
        asked.is_ok_and(|output| output.status.success())
    };
    let python = std::env::var_os("CKPT_PEERS_PYTHON").filter(has);
    if python.is_none() {
        skip(
            "CKPT_REQUIRE_PEERS",
            &format!("CKPT_PEERS_PYTHON names no Python with {}", packages.join(", ")),
        );
    }
    python.map(Python)
}

/// Says that a test skips because of `why`, or fails where the variable `required` is 1.
pub fn skip(required: &str, why: &str) {
    assert!(std::env::var_os(required).is_none_or(|value| value != "1"), "{why}, and {required}=1");
    // Past the test runner's capture.
    let _ = writeln!(std::io::stderr(), "skipped: {why} ({required}=1 makes this a failure)");
}

impl Python {
    /// Standard output of the script of the folder `tests/peers` of the crate in the folder `of`.
    #[track_caller]
    pub fn script<A: AsRef<OsStr>>(&self, of: &str, name: &str, arguments: &[A]) -> String {
        let script: PathBuf = root().join(of).join("tests/peers").join(name);
        self.run(&[script.as_os_str()], name, arguments)
    }

    /// Standard output of the program `code`.
    #[track_caller]
    pub fn code<A: AsRef<OsStr>>(&self, code: &str, arguments: &[A]) -> String {
        self.run(&[OsStr::new("-c"), OsStr::new(code)], "the program", arguments)
    }

    #[track_caller]
    fn run<A: AsRef<OsStr>>(&self, what: &[&OsStr], name: &str, arguments: &[A]) -> String {
        let output = Command::new(&self.0).args(what).args(arguments).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name} ends with {}:\n{out}{err}", output.status);
        out.into_owned()
    }
}

/// What a script printed as JSON.
#[track_caller]
pub fn json(printed: &str) -> Value {
    serde_json::from_str(printed).unwrap_or_else(|e| panic!("{e}:\n{printed}"))
}
