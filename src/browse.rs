//! `ckpt browse`: look around in checkpoints, in the terminal. One loop feeds messages to plain state; drawing is a
//! function of that state; files are read by threads of their own.

mod chart;
mod keys;
mod layout;
mod pages;
mod screen;
mod state;
mod svg;
mod theme;
mod tree;
mod values;
mod view;
mod worker;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crossterm::event::Event;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::load::LoadArgs;
use crate::{Failure, exit, load, terminal};
use screen::Screen;
use state::{Command, Message, State};
use worker::Workers;

/// Look around in checkpoints: modules and tensors, histograms, ternary maps, norms, values, metadata, runs over steps.
///
/// Statistics are measured in the background. Press ? for the keys.
#[derive(clap::Args)]
pub struct Args {
    /// Files, folders or glob patterns.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Write what the screen would show to a file (.svg or .txt) instead of showing it.
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// Size of the snapshot in characters.
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "100x30", value_parser = size, requires = "snapshot")]
    size: (u16, u16),
    /// Keys pressed before the snapshot is taken, such as "down down enter" or "/gate enter"; `esc` is a key, other
    /// words are typed.
    #[arg(long, value_name = "KEYS", default_value = "", requires = "snapshot")]
    keys: String,
    /// Replace an existing snapshot.
    #[arg(long, requires = "snapshot")]
    force: bool,
    #[command(flatten)]
    load: LoadArgs,
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let part = |text: &str| text.parse::<u16>().ok().filter(|n| (1..=500).contains(n));
    text.split_once('x')
        .and_then(|(width, height)| Some((part(width)?, part(height)?)))
        .ok_or_else(|| "width and height from 1 to 500, such as 100x30".into())
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if args.snapshot.is_none() && !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) {
        return Err(Failure::usage(
            "browse needs a terminal; `ckpt inspect` prints, and --snapshot FILE.svg draws a screen",
        ));
    }
    let options = args.load.options(ckpt_inspect::Options::default(), args.load.policy()?.thresholds);
    let paths = load::expand(&args.paths)?;
    let colors = anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never;
    match &args.snapshot {
        Some(file) => {
            let state = State::new(paths, args.size, colors || is_svg(file), options.thresholds);
            snapshot(args, file, state, Workers::new(options))
        }
        None => {
            let state = State::new(paths, (80, 24), colors, options.thresholds);
            browse(state, Workers::new(options))
        }
    }
}

/// The event loop.
fn browse(mut state: State, workers: Workers) -> Result<u8, Failure> {
    let broken = |e: std::io::Error| Failure::unwritable(format!("the terminal: {e}"));
    // The first file is opened before anything is shown: a header takes no time, and the first frame has something
    // to say. A file that cannot be read is better told on the command line.
    let opened = workers.open(&state.files[0].path);
    if let (1, Err(error)) = (state.files.len(), &opened) {
        return Err(Failure { message: error.clone(), code: exit::UNREADABLE });
    }
    let mut screen = Screen::enter().map_err(broken)?;
    state.size = screen.size().map_err(broken)?;
    state.update(worker::opened(0, opened));
    let mut todo = state.settle();
    screen.draw(&state).map_err(broken)?;
    let (sender, messages) = mpsc::channel();
    workers.start(state.files.iter().map(|f| f.path.clone()).collect(), sender.clone());
    screen::listen(sender);
    let mut drawn = Instant::now();
    let mut stale = false;
    loop {
        for command in std::mem::take(&mut todo) {
            match command {
                Command::Quit => {
                    workers.cancel();
                    screen.leave();
                    screen::obey_signal();
                    return Ok(exit::FINE);
                }
                Command::Suspend => {
                    screen.suspend().map_err(broken)?;
                    state.size = screen.size().map_err(broken)?;
                }
                Command::Copy(text) => screen.copy(&text).map_err(broken)?,
                Command::Measure(file) => workers.prefer(file),
                command => workers.ask(&state, command),
            }
        }
        let Some((batch, urgent)) = next(&messages, stale.then_some(drawn)) else { continue };
        for message in batch {
            todo.extend(state.update(message));
        }
        todo.extend(state.settle());
        stale = !urgent && drawn.elapsed() < FRAME;
        if !stale {
            screen.draw(&state).map_err(broken)?;
            drawn = Instant::now();
        }
    }
}

/// What the background brings is drawn at most this often; what the user does, at once.
const FRAME: Duration = Duration::from_millis(40);

/// The messages that are there, at least one unless a frame is due (drawn last at `stale`), and whether the user is
/// waiting for what comes of them.
fn next(messages: &Receiver<Message>, stale: Option<Instant>) -> Option<(Vec<Message>, bool)> {
    let first = match stale {
        None => messages.recv().unwrap_or(Message::Leave),
        Some(drawn) => match messages.recv_timeout(FRAME.saturating_sub(drawn.elapsed())) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => return Some((Vec::new(), true)),
            Err(RecvTimeoutError::Disconnected) => Message::Leave,
        },
    };
    let mut batch = vec![first];
    batch.extend(messages.try_iter().take(1000));
    let urgent = |m: &Message| !matches!(m, Message::Measured { .. } | Message::Opened { .. });
    let is_urgent = batch.iter().any(urgent);
    Some((batch, is_urgent))
}

/// Everything measured, the keys pressed, and the screen drawn to a file.
fn snapshot(args: &Args, file: &std::path::Path, mut state: State, workers: Workers) -> Result<u8, Failure> {
    if file.exists() && !args.force {
        return Err(Failure::exists(file));
    }
    let is_text = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt"));
    if !is_text && !is_svg(file) {
        return Err(Failure::usage("a snapshot's name ends in .svg or .txt"));
    }
    for at in 0..state.files.len() {
        let opened = workers.open(&state.files[at].path);
        state.update(worker::opened(at, opened));
        for message in workers.measure_all(at, &state) {
            state.update(message);
        }
    }
    for key in [None].into_iter().chain(keys::parse(&args.keys).into_iter().map(Some)) {
        let mut todo = match key {
            Some(key) => state.update(Message::Input(Event::Key(key))),
            None => Vec::new(),
        };
        todo.extend(state.settle());
        for command in todo {
            if let Some(message) = workers.answer(&state, &command) {
                state.update(message);
            }
        }
        state.settle();
    }
    let screen = drawing(&state);
    let text = if is_text { svg::text(&screen) } else { svg::svg(&screen) };
    terminal::write_file(file, text.as_bytes(), args.force)?;
    Ok(exit::FINE)
}

fn is_svg(file: &std::path::Path) -> bool {
    file.extension().is_some_and(|e| e.eq_ignore_ascii_case("svg"))
}

/// `state` drawn at its size.
fn drawing(state: &State) -> Buffer {
    let (width, height) = state.size;
    let mut screen = Buffer::empty(Rect::new(0, 0, width, height));
    view::draw(state, &mut screen);
    screen
}
