//! `ckpt browse` in a terminal of its own: what it shows, how it leaves, and that it leaves the terminal as it was.

#![cfg(unix)]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

const RUN: &str = "tests/fixtures/collapse-run";
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Session {
    master: Box<dyn MasterPty + Send>,
    child: Box<dyn Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    screen: Arc<Mutex<(vt100::Parser, Vec<u8>)>>,
    modes_before: String,
    _cache: tempfile::TempDir,
}

fn size(cols: u16, rows: u16) -> PtySize {
    PtySize { rows, cols, ..PtySize::default() }
}

impl Session {
    fn start(paths: &[&str], cols: u16, rows: u16, environment: &[(&str, &str)]) -> Session {
        let cache = tempfile::tempdir().unwrap();
        let pty = native_pty_system().openpty(size(cols, rows)).unwrap();
        let modes_before = modes(&*pty.master);
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_ckpt"));
        command.arg("browse");
        command.args(paths);
        command.cwd(env!("CARGO_MANIFEST_DIR"));
        command.env("XDG_CACHE_HOME", cache.path());
        command.env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR");
        environment.iter().for_each(|(key, value)| command.env(key, value));
        let child = pty.slave.spawn_command(command).unwrap();
        let screen = Arc::new(Mutex::new((vt100::Parser::new(rows, cols, 0), Vec::new())));
        let mut reader = pty.master.try_clone_reader().unwrap();
        let shown = screen.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                let mut shown = shown.lock().unwrap();
                shown.0.process(&buffer[..n]);
                shown.1.extend_from_slice(&buffer[..n]);
            }
        });
        let keyboard = pty.master.take_writer().unwrap();
        // The slave stays open for as long as the child has it.
        Session { master: pty.master, child, keyboard, screen, modes_before, _cache: cache }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().0.screen().contents()
    }

    #[track_caller]
    fn wait(&self, what: &str, until: impl Fn(&vt100::Screen) -> bool) {
        let begun = Instant::now();
        while !until(self.screen.lock().unwrap().0.screen()) {
            assert!(begun.elapsed() < PATIENCE, "never {what}:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        self.wait(&format!("shows {text:?}"), |screen| screen.contents().contains(text));
    }

    #[track_caller]
    fn wait_until_gone(&self, text: &str) {
        self.wait(&format!("is without {text:?}"), |screen| !screen.contents().contains(text));
    }

    /// Waits for the end; the exit code, and the signal that it died of.
    #[track_caller]
    fn end(&mut self) -> portable_pty::ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn assert_restored(&self) {
        self.wait("leaves the alternate screen", |screen| {
            !screen.alternate_screen()
                && !screen.hide_cursor()
                && screen.mouse_protocol_mode() == vt100::MouseProtocolMode::None
        });
        assert_eq!(modes(&*self.master), self.modes_before, "line editing and echo");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// The terminal's line discipline, in words.
fn modes(master: &dyn MasterPty) -> String {
    let modes = master.get_termios().unwrap();
    format!("{:?} {:?} {:?}", modes.input_flags, modes.output_flags, modes.local_flags)
}

#[test]
fn opens_folds_searches_shows_detail_resizes_and_quits() {
    let mut session = Session::start(&[RUN], 120, 40, &[]);
    session.wait_for("▾ layers");
    assert!(session.screen.lock().unwrap().0.screen().alternate_screen());
    session.wait_until_gone("measuring");
    session.wait_for("healthy");
    session.press("z");
    session.wait_until_gone("layers");
    session.press("Z");
    session.wait_for("q_proj.weight");
    session.press("/l1mlpgate");
    session.wait_for("layers.1.mlp.gate_proj.weight");
    session.wait_for("1 found");
    session.press("\r");
    session.wait_for("ternary map");
    session.wait_for("std by step");
    session.press("]]]]]]]]");
    session.wait_for("step 4000 (9 of 9)");
    session.wait_for("weak");
    session.master.resize(size(60, 15)).unwrap();
    session.screen.lock().unwrap().0.screen_mut().set_size(15, 60);
    // The last line went with the lower half of the screen; a redrawn one shows it again.
    session.wait_for("only /l1mlpgate");
    session.wait_until_gone("ternary map");
    session.press("\r");
    session.wait_for("strides");
    session.master.resize(size(120, 40)).unwrap();
    session.screen.lock().unwrap().0.screen_mut().set_size(40, 120);
    session.wait_for("|w| by powers of two");
    session.press("\x1b[6~");
    session.wait_for("row norms");
    // Together with the next key it would be Alt.
    session.press("\x1b");
    session.wait_for("only /l1mlpgate");
    session.press("?");
    session.wait_for("copy the name, the value in full");
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
    session.assert_restored();
}

#[test]
fn copies_a_name_through_the_terminal() {
    let mut session = Session::start(&[RUN], 80, 24, &[]);
    session.wait_for("embed_tokens.weight");
    session.press("jy");
    session.wait_for("copied model_state_dict.embed_tokens.weight");
    // base64 of the name.
    let wanted = b"\x1b]52;c;bW9kZWxfc3RhdGVfZGljdC5lbWJlZF90b2tlbnMud2VpZ2h0";
    let raw = session.screen.lock().unwrap().1.clone();
    assert!(raw.windows(wanted.len()).any(|w| w == wanted));
    session.press("\x03");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn a_signal_gives_the_terminal_back_and_is_told_to_the_parent() {
    for (name, number) in [
        ("TERM", "Terminated"),
        ("HUP", "Hangup"),
        ("INT", "Interrupt"),
        ("USR1", "User defined signal 1"),
        ("SEGV", "Segmentation fault"),
        ("ABRT", "Aborted"),
    ] {
        let mut session = Session::start(&[RUN], 80, 24, &[]);
        session.wait_for("layers");
        let pid = session.child.process_id().unwrap().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
        let status = session.end();
        assert_eq!(status.signal(), Some(number), "{status:?}");
        session.assert_restored();
    }
}

#[test]
fn no_color_is_respected_and_colours_are_the_terminals_own() {
    let coloured = |session: &Session| {
        let shown = session.screen.lock().unwrap();
        let screen = shown.0.screen();
        let cells = (0..24).flat_map(|row| (0..80).map(move |col| (row, col)));
        cells.filter_map(|(row, col)| screen.cell(row, col)).map(|cell| cell.fgcolor()).collect::<Vec<_>>()
    };
    let session = Session::start(&[RUN], 80, 24, &[("NO_COLOR", "1")]);
    session.wait_for("healthy");
    session.wait_until_gone("measuring");
    assert!(coloured(&session).iter().all(|c| *c == vt100::Color::Default));
    let session = Session::start(&[RUN], 80, 24, &[]);
    session.wait_for("healthy");
    session.wait_until_gone("measuring");
    let colours = coloured(&session);
    assert!(colours.contains(&vt100::Color::Idx(2)), "healthy is green");
    assert!(colours.iter().all(|c| matches!(c, vt100::Color::Default | vt100::Color::Idx(0..16))));
}

/// A SafeTensors file of `tensors` matrices of 256 MiB, all of it a hole.
fn large(folder: &Path, tensors: usize) -> PathBuf {
    const BYTES: usize = 256 << 20;
    let entries: Vec<String> = (0..tensors)
        .map(|i| {
            let (start, end) = (i * BYTES, (i + 1) * BYTES);
            format!(
                r#""layers.{i}.weight":{{"dtype":"F32","shape":[8192,8192],"data_offsets":[{start},{end}]}}"#
            )
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let path = folder.join("large.safetensors");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + tensors * BYTES) as u64).unwrap();
    path
}

/// The list is there long before the measurements are, and leaving does not wait for them.
#[test]
fn a_large_file_is_listed_at_once_and_left_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = large(folder.path(), 256);
    let mut session = Session::start(&[path.to_str().unwrap()], 100, 30, &[]);
    session.wait_for("68.7 GB");
    session.wait_for("measuring");
    let left = Instant::now();
    session.press("q");
    assert_eq!(session.end().exit_code(), 0);
    assert!(left.elapsed() < Duration::from_secs(60), "{:?}", left.elapsed());
    session.assert_restored();
}

/// Pages of a mapped file that are gone cost a SIGBUS, in the midst of anything.
#[test]
fn a_file_cut_short_while_it_is_measured_gives_the_terminal_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = large(folder.path(), 256);
    let mut session = Session::start(&[path.to_str().unwrap()], 100, 30, &[]);
    session.wait_for("measuring");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
    assert_eq!(session.end().exit_code(), 3);
    session.wait_for("a file became shorter while it was read");
    session.assert_restored();
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    let output = Command::new(env!("CARGO_BIN_EXE_ckpt"))
        .args(["browse", RUN])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--snapshot"));
}

#[test]
fn an_unreadable_file_is_told_on_the_command_line() {
    let mut session = Session::start(&["tests/fixtures/no-such-file.pt"], 80, 24, &[]);
    assert_eq!(session.end().exit_code(), 3);
    session.wait_for("no-such-file.pt");
    session.assert_restored();
}

/// The pictures of the docs are what the program draws today; CKPT_UPDATE_SCREENS=1 draws them anew.
#[test]
fn the_pictures_in_the_docs_are_what_the_program_draws() {
    let folder = tempfile::tempdir().unwrap();
    for (picture, size, keys) in [
        ("browse.svg", "120x34", "] ] ] ] ] ] ] ] /gate enter"),
        ("browse-tree.svg", "100x24", "] ] ] ] ] ] ] ] down down down"),
    ] {
        let drawn = folder.path().join(picture);
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(picture);
        let status = Command::new(env!("CARGO_BIN_EXE_ckpt"))
            .args(["browse", RUN, "--no-cache", "--size", size, "--keys", keys, "--snapshot"])
            .arg(&drawn)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(0));
        if std::env::var_os("CKPT_UPDATE_SCREENS").is_some() {
            std::fs::copy(&drawn, &docs).unwrap();
        }
        let (drawn, kept) =
            (std::fs::read_to_string(&drawn).unwrap(), std::fs::read_to_string(&docs).unwrap());
        assert!(
            drawn == kept,
            "docs/{picture} is out of date: CKPT_UPDATE_SCREENS=1 cargo test --test browse"
        );
    }
}

#[test]
fn an_error_is_no_picture_and_colours_can_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let ckpt = |arguments: &[&str], environment: &[(&str, &str)]| {
        Command::new(env!("CARGO_BIN_EXE_ckpt"))
            .args(["browse", "--no-cache", "--snapshot"])
            .args(arguments)
            .envs(environment.iter().copied())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap()
    };
    let picture = folder.path().join("a.svg");
    let out = picture.to_str().unwrap();
    let junk = folder.path().join("junk.pt");
    std::fs::write(&junk, "junk").unwrap();
    for path in ["no-such-file", junk.to_str().unwrap()] {
        let output = ckpt(&[out, path], &[]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(path), "{output:?}");
        assert!(!picture.exists());
    }
    // Where the picture goes is looked at before anything is measured.
    let lost = folder.path().join("lost.svg");
    std::os::unix::fs::symlink("nowhere", &lost).unwrap();
    let output = ckpt(&[lost.to_str().unwrap(), junk.to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let drawn = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = ckpt(&[&[out, RUN, "--force"], arguments].concat(), environment);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        std::fs::read_to_string(&picture).unwrap()
    };
    let (coloured, plain) = (drawn(&[], &[("NO_COLOR", "")]), drawn(&[], &[("NO_COLOR", "1")]));
    assert_eq!(plain, drawn(&["--color", "never"], &[("NO_COLOR", "")]));
    assert_eq!(coloured, drawn(&["--color", "always"], &[("NO_COLOR", "1")]));
    let paints = |svg: &str| {
        let of = |part: &str| part.split('"').next().unwrap_or_default().to_string();
        svg.split("fill=\"").skip(1).map(of).collect::<std::collections::BTreeSet<String>>()
    };
    assert!(paints(&plain).len() < paints(&coloured).len(), "{:?} {:?}", paints(&plain), paints(&coloured));
}
