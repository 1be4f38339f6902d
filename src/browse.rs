//! `ckpt browse`: look around in checkpoints, in the terminal. One loop feeds messages to plain state; drawing is a
//! function of that state; files are read by threads of their own.

mod chart;
mod files;
mod glyphs;
mod keys;
mod layout;
mod order;
mod pages;
mod screen;
mod search;
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
use crate::{Failure, exit, load, paths, terminal};
#[cfg(unix)]
pub use screen::give_back_at_once;
use screen::{Listener, Screen};
use state::{Command, Message, State};
use worker::Workers;

/// Explore checkpoints in the terminal: modules and tensors, histograms, ternary maps, norms, values, metadata, runs
/// over steps.
///
/// Statistics are measured in the background. Press ? for the keys.
#[derive(clap::Args)]
pub struct Args {
    /// Files, folders or glob patterns.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Draw one screen to a file (.svg or .txt) instead of opening the browser.
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// Size of the snapshot in characters.
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "100x30", value_parser = size, requires = "snapshot")]
    size: (u16, u16),
    /// Keys to press before the snapshot is taken, such as "down down enter" or "/gate enter". Names of keys (`esc`)
    /// are pressed, other words are typed.
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
        .ok_or_else(|| "must be WIDTHxHEIGHT, each from 1 to 500, such as 100x30".into())
}

/// The checkpoints to show. An argument that matches nothing is reported before the browser takes over the screen.
fn found(found: Vec<crate::paths::Found>) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    for found in found {
        match found {
            Ok(path) => paths.push(path),
            Err((_, error)) => return Err(error.into()),
        }
    }
    Ok(paths)
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if args.snapshot.is_none() && !(terminal::is_terminal() && std::io::stdin().is_terminal()) {
        return Err(Failure::usage(
            "browse needs a terminal; use `ckpt inspect` to print, or --snapshot FILE.svg to draw one screen to a file",
        ));
    }
    let options = args.load.options(ckpt_inspect::Options::default(), args.load.policy()?.thresholds);
    let paths = found(load::expand(&args.paths)?)?;
    let colors = anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never;
    match &args.snapshot {
        Some(file) => {
            let state = State::new(paths, args.size, drawn_in_colors(file, colors), options.thresholds);
            snapshot(args, file, state, Workers::new(options))
        }
        None => {
            let mut state = State::new(paths, (80, 24), colors, options.thresholds);
            state.console = std::env::var_os("TERM").is_some_and(|term| term == "linux");
            browse(state, Workers::new(options))
        }
    }
}

/// Whether a snapshot has colours: a picture does, unless NO_COLOR or --color never says otherwise.
fn drawn_in_colors(file: &std::path::Path, terminal: bool) -> bool {
    match anstream::ColorChoice::global() {
        anstream::ColorChoice::Never => false,
        anstream::ColorChoice::Auto if is_svg(file) => {
            std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
        anstream::ColorChoice::Auto => terminal,
        _ => true,
    }
}

/// The event loop.
fn browse(mut state: State, workers: Workers) -> Result<u8, Failure> {
    let broken = |e: std::io::Error| Failure::unwritable(format!("the terminal: {e}"));
    // The first file is opened before anything is shown: a header takes no time, and the first frame has something
    // to say. A file that cannot be read is better reported on the command line.
    let opened = workers.open(&state.files[0].path);
    if let (1, Err(error)) = (state.files.len(), &opened) {
        return Err(Failure::unreadable(error.clone()));
    }
    let listener = Listener::new();
    let mut screen = Screen::enter().map_err(broken)?;
    state.size = screen.size().map_err(broken)?;
    state.update(worker::opened(0, opened));
    let mut todo = state.settle();
    screen.draw(&state).map_err(broken)?;
    let (sender, messages) = mpsc::channel();
    workers.start(state.files.iter().map(|f| f.path.clone()).collect(), sender.clone());
    listener.listen(sender);
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

/// Results from the background are drawn at most this often; the user's actions, at once.
const FRAME: Duration = Duration::from_millis(40);

/// The pending messages, at least one unless a frame is due (drawn last at `stale`), and whether the user is
/// waiting for their effect.
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
    terminal::may_write(file, args.force)?;
    let is_text = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt"));
    if !is_text && !is_svg(file) {
        return Err(Failure::usage("the snapshot's file name must end in .svg or .txt"));
    }
    let read: Vec<PathBuf> = state.files.iter().map(|file| file.path.clone()).collect();
    paths::spare([file], || load::files(&read))?;
    let mut shown = false;
    for at in 0..state.files.len() {
        let path = &state.files[at].path;
        let opened = workers.open(path);
        // A picture of an error is not what was asked for.
        if let Err(error) = &opened
            && (args.paths.contains(path) || (!shown && at + 1 == state.files.len()))
        {
            return Err(Failure::unreadable(error.clone()));
        }
        shown |= opened.is_ok();
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

#[cfg(test)]
mod tests;
