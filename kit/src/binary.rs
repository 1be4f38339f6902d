//! Runs of the program under test.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::fixtures::root;

/// The program, and a folder of its own: nothing of the user's is read or written, and no setting of the terminal counts.
///
/// It runs in the repository, so that `tests/fixtures/…` is a path, unless told otherwise.
pub struct Program {
    path: PathBuf,
    folder: TempDir,
    home: TempDir,
    working: PathBuf,
}

impl Program {
    /// The program at `path`: `env!("CARGO_BIN_EXE_ckpt")`.
    pub fn new(path: &str) -> Self {
        let folder = || tempfile::tempdir().unwrap();
        Program { path: path.into(), folder: folder(), home: folder(), working: root().into() }
    }

    /// It runs in its own folder.
    pub fn in_its_folder(mut self) -> Self {
        self.working = self.folder().into();
        self
    }

    /// It runs in `folder`.
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.working = folder.into();
        self
    }

    /// The program's own folder, which is empty at first.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `name` in the program's own folder.
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder().join(name)
    }

    /// Writes a file into the program's own folder; its path.
    pub fn file(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The names in the program's own folder, in order.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Where records and the like are kept.
    pub fn cache(&self) -> PathBuf {
        self.home.path().join("cache")
    }

    /// Where histories and the like are kept.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// The program itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its surroundings for `command`, which runs it or something that does.
    pub fn surround<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        for (variable, value) in self.surroundings() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        command.current_dir(&self.working)
    }

    /// The variables of its surroundings, set or taken away.
    pub fn surroundings(&self) -> Vec<(&'static str, Option<PathBuf>)> {
        let home = self.home.path();
        vec![
            ("HOME", Some(home.into())),
            ("XDG_CACHE_HOME", Some(self.cache())),
            ("XDG_DATA_HOME", Some(self.data())),
            ("XDG_CONFIG_HOME", Some(home.join("config"))),
            ("NO_COLOR", None),
            ("CLICOLOR", None),
            ("CLICOLOR_FORCE", None),
        ]
    }

    /// The program, not started yet.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new(&self.path);
        self.surround(command.args(arguments));
        command
    }

    /// A run to its end.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// A run to its end that reads `input`.
    pub fn run_with_input<A: AsRef<OsStr>>(&self, arguments: &[A], input: &[u8]) -> Ran {
        let mut running = self.start(arguments);
        // Who ends without reading everything closes the pipe.
        let _ = running.child.stdin.take().unwrap().write_all(input);
        running.end()
    }

    /// A run that has begun, its input and outputs in pipes.
    pub fn start<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Running {
        let mut command = self.command(arguments);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = pipes.spawn().unwrap();
        Running { command: told(&command), child }
    }

    /// A run of `script` by bash in the program's surroundings; `$0` is the program.
    pub fn shell(&self, script: &str) -> Ran {
        Ran::of(self.surround(Command::new("bash").args(["-c", script]).arg(&self.path)))
    }
}

fn told(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A run that may not have ended.
pub struct Running {
    command: String,
    /// Its process.
    pub child: Child,
}

impl Running {
    /// Sends it the signal that `kill` calls `name`: `INT`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for its end.
    pub fn end(self) -> Ran {
        Ran::new(self.command, self.child.wait_with_output().unwrap())
    }
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    command: String,
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// Runs `command` to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Ran::new(told(command), output)
    }

    /// What `output` says; `command` is for messages. All of it is UTF-8, whatever the program was given.
    pub fn new(command: String, output: Output) -> Self {
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).unwrap_or_else(|e| panic!("`{command}` prints what is no UTF-8: {e}"))
        };
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Ran { command, status: output.status, stdout, stderr }
    }

    /// The exit code; none if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Fails, and shows all of the run, unless it ended with `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{self}");
        self
    }

    /// Standard output.
    pub fn out(&self) -> &str {
        &self.stdout
    }

    /// Standard error.
    pub fn err(&self) -> &str {
        &self.stderr
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self}"))
    }

    /// Fails, and shows all of the run, unless standard output holds each of `parts`.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stdout.contains(part), "{part:?} is not in the output of {self}");
        }
        self
    }

    /// Fails, and shows all of the run, unless standard error holds each of `parts`.
    #[track_caller]
    pub fn complains(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in the errors of {self}");
        }
        self
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Ran { command, status, stdout, stderr } = self;
        write!(f, "`{command}`, {status}\n--- standard output\n{stdout}\n--- standard error\n{stderr}")
    }
}

/// `path` as an argument among those that are text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_else(|| panic!("{} is no UTF-8", path.display()))
}
