//! `ckpt chat` in a terminal of its own, and on pipes.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

const HEALTHY: &str = "tests/fixtures/healthy-run/step-02000.pt";
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Session {
    _master: Box<dyn MasterPty + Send>,
    child: Box<dyn Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    shown: Arc<Mutex<String>>,
}

impl Session {
    fn start(data: &Path, flags: &[&str]) -> Session {
        let size = PtySize { rows: 40, cols: 100, ..PtySize::default() };
        let pty = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_ckpt"));
        command.args(["chat", HEALTHY]);
        command.args(flags);
        command.cwd(env!("CARGO_MANIFEST_DIR"));
        command.env("XDG_DATA_HOME", data);
        command.env("TERM", "xterm-256color");
        let child = pty.slave.spawn_command(command).unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let mut reader = pty.master.try_clone_reader().unwrap();
        let all = shown.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                all.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        let keyboard = pty.master.take_writer().unwrap();
        Session { _master: pty.master, child, keyboard, shown }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    /// Waits until what was shown since the last wait holds `text`, and forgets it up to there.
    #[track_caller]
    fn wait_for(&self, text: &str) {
        let begun = Instant::now();
        loop {
            let mut shown = self.shown.lock().unwrap();
            if let Some(at) = shown.find(text) {
                shown.drain(..at + text.len());
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "never shows {text:?}:\n{shown}");
            drop(shown);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until so many more bytes were shown, whatever they are.
    #[track_caller]
    fn wait_for_more(&self, bytes: usize) {
        let begun = Instant::now();
        while self.shown.lock().unwrap().len() < bytes {
            assert!(begun.elapsed() < PATIENCE, "shows no more:\n{}", self.shown.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn end(&mut self) -> u32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.exit_code();
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.shown.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// Answers that never end by themselves.
const ENDLESS: [&str; 5] = ["--temperature=0", "--repetition-penalty=1", "--slide", "-n", "100000000"];

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let data = tempfile::tempdir().unwrap();
    let mut session = Session::start(data.path(), &ENDLESS);
    session.wait_for("/help lists commands");
    session.wait_for("> ");
    for _ in 0..2 {
        session.press("# # # # # # #\r");
        session.wait_for("\x1b[?2004l");
        session.wait_for_more(200);
        session.press("\x03");
        session.wait_for("stopped");
        session.wait_for("> ");
    }
    session.press("\x03");
    session.wait_for("Ctrl-D or /quit leaves");
    session.press("/nonsense\r");
    session.wait_for("is no command");
    session.press("/system Be brief.\r");
    session.wait_for("told so");
    session.press("/clear\r");
    session.wait_for("a new conversation");
    session.press("/quit\r");
    assert_eq!(session.end(), 0);
}

#[test]
fn lines_are_edited_and_remembered() {
    let data = tempfile::tempdir().unwrap();
    let flags = ["--temperature=0", "-n", "1"];
    let mut session = Session::start(data.path(), &flags);
    session.wait_for("> ");
    // A typing error is taken back.
    session.press("/helx\x7fp\r");
    session.wait_for("begin a new conversation");
    session.press("\x04");
    assert_eq!(session.end(), 0);
    let history = std::fs::read_to_string(data.path().join("ckpt/chat-history")).unwrap();
    assert!(history.lines().any(|line| line == "/help"), "{history}");
    // The arrow brings it back in the next session.
    let mut session = Session::start(data.path(), &flags);
    session.wait_for("> ");
    session.press("\x1b[A\r");
    session.wait_for("begin a new conversation");
    session.press("\x04");
    assert_eq!(session.end(), 0);
    let mut session = Session::start(data.path(), &["--no-history"]);
    session.wait_for("> ");
    session.press("/system secret\r");
    session.wait_for("told so");
    session.press("\x04");
    assert_eq!(session.end(), 0);
    assert!(!std::fs::read_to_string(data.path().join("ckpt/chat-history")).unwrap().contains("secret"));
}

fn piped(flags: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ckpt"))
        .args([&["chat", HEALTHY, "--temperature=0", "-n", "8"], flags].concat())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn each_line_of_a_pipe_is_a_turn() {
    let (code, twice, _) = piped(&[], "import os\n/clear\nimport os\n");
    assert_eq!(code, Some(0));
    let half = twice.len() / 2;
    assert!(half > 1 && twice[..half] == twice[half..], "{twice:?}");
    // What was said before changes the answer; a turn may have several lines.
    let (_, talk, _) = piped(&[], "import os\nimport os\n");
    assert_ne!(talk, twice);
    let (_, one, _) = piped(&[], "import os\\\nimport re\n");
    let (_, two, _) = piped(&[], "import os\nimport re\n");
    assert_ne!(one, two);
    // 128 positions: after some turns the first ones are forgotten.
    let (code, _, notes) = piped(&[], &"for x in range(10): print(x)\n".repeat(8));
    assert_eq!(code, Some(0));
    assert!(notes.contains("turns are forgotten"), "{notes}");
    let (code, _, notes) = piped(&[], &format!("{}\nimport os\n", "words and words ".repeat(60)));
    assert_eq!(code, Some(0));
    assert!(notes.contains("do not fit"), "{notes}");
}

#[test]
fn the_template_is_the_models_or_what_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizer.json"),
        folder.path().join("tokenizer.json"),
    )
    .unwrap();
    let file = folder.path().join("tokenizer_config.json");
    let tokenizer = ["--tokenizer", folder.path().to_str().unwrap()];
    let (code, _, says) = piped(&[&tokenizer[..], &["--template=model"]].concat(), "a\n");
    assert_eq!(code, Some(2));
    assert!(says.contains("chat template"), "{says}");
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    std::fs::write(&file, serde_json::json!({ "chat_template": template }).to_string()).unwrap();
    // This template adds nothing, so the answer is what follows the text itself.
    let (_, said, _) = piped(&tokenizer, "import os\n");
    let output = Command::new(env!("CARGO_BIN_EXE_ckpt"))
        .args(["infer", HEALTHY, "-p", "import os", "-n", "8", "--repetition-penalty", "1.2"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert_eq!(said.trim(), String::from_utf8(output.stdout).unwrap().trim());
    let (_, plain, _) = piped(&[&tokenizer[..], &["--template=plain"]].concat(), "import os\n");
    let (_, tags, _) = piped(&[&tokenizer[..], &["--template=tags"]].concat(), "import os\n");
    assert!(plain != said && tags != plain, "{plain:?} {tags:?}");
    std::fs::write(&file, r#"{"chat_template": "{{ raise_exception('no such turn') }}"}"#).unwrap();
    let (code, _, says) = piped(&tokenizer, "a\n");
    assert_eq!(code, Some(3));
    assert!(says.contains("no such turn"), "{says}");
}
