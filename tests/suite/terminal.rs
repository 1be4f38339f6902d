//! The program in a terminal of its own: keys pressed, screens waited for, and the terminal as it was left.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ckpt_kit::binary::Program;
use portable_pty::{Child, CommandBuilder, ExitStatus, MasterPty, PtySize, native_pty_system};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Session {
    master: Box<dyn MasterPty + Send>,
    child: Box<dyn Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    shown: Arc<Mutex<Shown>>,
    modes_before: String,
}

/// What the program wrote.
pub struct Shown {
    parser: vt100::Parser,
    pub bytes: Vec<u8>,
    /// What no [`Session::wait_for_next`] has found.
    unread: String,
}

impl Shown {
    pub fn screen(&self) -> &vt100::Screen {
        self.parser.screen()
    }
}

fn size(cols: u16, rows: u16) -> PtySize {
    PtySize { rows, cols, ..PtySize::default() }
}

impl Session {
    /// Starts `program` in a terminal of this many columns and rows.
    pub fn start(
        program: &Program,
        arguments: &[&str],
        (cols, rows): (u16, u16),
        environment: &[(&str, &str)],
    ) -> Session {
        let pty = native_pty_system().openpty(size(cols, rows)).unwrap();
        let modes_before = modes(&*pty.master);
        let run = program.command(arguments);
        let mut command = CommandBuilder::new(run.get_program());
        command.args(run.get_args());
        command.cwd(run.get_current_dir().unwrap());
        for (variable, value) in run.get_envs() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            }
        }
        command.env("TERM", "xterm-256color");
        environment.iter().for_each(|(variable, value)| command.env(OsStr::new(variable), value));
        let child = pty.slave.spawn_command(command).unwrap();
        let parser = vt100::Parser::new(rows, cols, 0);
        let shown = Arc::new(Mutex::new(Shown { parser, bytes: Vec::new(), unread: String::new() }));
        let mut reader = pty.master.try_clone_reader().unwrap();
        let written = shown.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                let mut shown = written.lock().unwrap();
                shown.parser.process(&buffer[..n]);
                shown.bytes.extend_from_slice(&buffer[..n]);
                shown.unread.push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        let keyboard = pty.master.take_writer().unwrap();
        // The slave stays open for as long as the child has it.
        Session { master: pty.master, child, keyboard, shown, modes_before }
    }

    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    pub fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap()
    }

    pub fn text(&self) -> String {
        self.shown().screen().contents()
    }

    pub fn process_id(&self) -> String {
        self.child.process_id().unwrap().to_string()
    }

    pub fn resize(&self, cols: u16, rows: u16) {
        self.master.resize(size(cols, rows)).unwrap();
        self.shown().parser.screen_mut().set_size(rows, cols);
    }

    #[track_caller]
    pub fn wait(&self, what: &str, until: impl Fn(&vt100::Screen) -> bool) {
        self.wait_with(what, |shown| until(shown.screen()));
    }

    #[track_caller]
    fn wait_with(&self, what: &str, mut until: impl FnMut(&mut Shown) -> bool) {
        let begun = Instant::now();
        while !until(&mut self.shown()) {
            assert!(begun.elapsed() < PATIENCE, "never {what}:\n{}\n{:?}", self.text(), self.shown().unread);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until `text` is on the screen.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        self.wait(&format!("shows {text:?}"), |screen| screen.contents().contains(text));
    }

    #[track_caller]
    pub fn wait_until_gone(&self, text: &str) {
        self.wait(&format!("is without {text:?}"), |screen| !screen.contents().contains(text));
    }

    /// Waits until what was written since the last such wait holds `text`, and forgets it up to there.
    #[track_caller]
    pub fn wait_for_next(&self, text: &str) {
        self.wait_with(&format!("writes {text:?}"), |shown| {
            let found = shown.unread.find(text);
            found.map(|at| shown.unread.drain(..at + text.len())).is_some()
        });
    }

    /// Waits until so many more bytes were written, whatever they are.
    #[track_caller]
    pub fn wait_for_more(&self, bytes: usize) {
        self.wait_with(&format!("writes {bytes} bytes more"), |shown| shown.unread.len() >= bytes);
    }

    /// Waits for the end; the exit code, and the signal that it died of.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
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
    pub fn assert_restored(&self) {
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
