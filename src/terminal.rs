//! All output for people goes through here: colours, tables, progress, errors, and files that are written completely or
//! not at all.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anstyle::{AnsiColor, Style};
use ckpt_inspect::{Verdict, printable_in_log, staged};
pub use ckpt_reports::text::{bytes, count, number};
use indicatif::{ProgressBar, ProgressStyle};

use crate::capture::{self, Level};
use crate::{Failure, exit};

/// When to use colours.
#[derive(clap::Args)]
pub struct ColorArgs {
    /// When to use colours; NO_COLOR is respected.
    #[arg(long, global = true, default_value = "auto", value_name = "WHEN", display_order = 998)]
    color: When,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

impl ColorArgs {
    /// Applies the choice to everything that is printed from now on.
    pub fn apply(&self) {
        match self.color {
            _ if capture::is_captured() => {}
            When::Auto => {}
            When::Always => anstream::ColorChoice::Always.write_global(),
            When::Never => anstream::ColorChoice::Never.write_global(),
        }
    }
}

/// Prints `text`, with colours if they are wanted. A closed pipe ends the program quietly.
pub fn print(text: &str) -> Result<(), Failure> {
    if capture::keep(text) {
        return Ok(());
    }
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::unwritable(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Standard output that takes bytes in parts. A closed pipe is no error. Of a captured command they are kept, and must be
/// text.
#[derive(Default)]
pub struct Output {
    kept: Vec<u8>,
}

impl Output {
    /// Ends it.
    pub fn end(self) -> Result<(), Failure> {
        match String::from_utf8(self.kept) {
            Ok(text) if text.is_empty() || capture::keep(&text) => Ok(()),
            _ => Err(Failure::usage("this is a binary format: give -o FILE")),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if capture::is_captured() {
            self.kept.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        match std::io::stdout().lock().write(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match std::io::stdout().lock().flush() {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            flushed => flushed,
        }
    }
}

/// Prints what a model wrote; on a terminal, control characters are shown as escapes. False if the output is no longer
/// read.
#[cfg(feature = "infer")]
pub fn print_model_text(text: &str) -> Result<bool, Failure> {
    if capture::keep(text) {
        return Ok(true);
    }
    let mut out = std::io::stdout().lock();
    let harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    let shown = if out.is_terminal() && !text.chars().all(harmless) {
        let show = |c: char| if harmless(c) { c.to_string() } else { c.escape_unicode().to_string() };
        text.chars().map(show).collect()
    } else {
        text.to_string()
    };
    match out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::unwritable(format!("standard output: {error}"))),
    }
}

/// Whether results are printed to a terminal.
pub fn is_terminal() -> bool {
    !capture::is_captured() && std::io::stdout().is_terminal()
}

/// Whether progress shows.
fn shows_progress() -> bool {
    !capture::is_captured() && std::io::stderr().is_terminal()
}

/// Prints why a command line is not understood, or its help.
pub fn usage(error: &clap::Error) {
    let text = || error.render().to_string();
    let kept = match error.use_stderr() {
        true => {
            let text = text();
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
            capture::tell(Level::Error, &Failure::usage(text))
        }
        false => capture::is_captured() && capture::keep(&text()),
    };
    if !kept {
        let _ = error.print();
    }
}

/// Prints an error.
pub fn error(message: &str) {
    failure(&Failure::new(exit::UNREADABLE, message));
}

/// Prints why something could not be done.
pub fn failure(failure: &Failure) {
    if !capture::tell(Level::Error, failure) {
        let style = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
        let lines: Vec<String> = failure.message.lines().map(escape).collect();
        let _ = writeln!(anstream::stderr(), "{style}error{style:#}: {}", lines.join("\n"));
    }
}

/// Prints a warning.
pub fn warning(message: &str) {
    if !capture::tell(Level::Warning, &Failure::new(exit::FINE, message)) {
        let style = Style::new().fg_color(Some(AnsiColor::Yellow.into())).bold();
        let lines: Vec<String> = message.lines().map(escape).collect();
        let _ = writeln!(anstream::stderr(), "{style}warning{style:#}: {}", lines.join("\n"));
    }
}

/// Prints a note that is not an error.
pub fn note(message: &str) {
    if !capture::tell(Level::Note, &Failure::new(exit::FINE, message)) {
        let _ = writeln!(anstream::stderr(), "{message}");
    }
}

/// Columns of the terminal; unlimited without one, so that lines are not wrapped.
pub fn width() -> usize {
    match terminal_size::terminal_size() {
        Some((width, _)) if is_terminal() => usize::from(width.0).max(40),
        _ => usize::MAX,
    }
}

/// `text` from a file, made safe to print: control and invisible characters are escaped, and so is what a CI system
/// would take for a command in a log (a leading `::`, and `##` as in `##[error]` and `##vso[`).
pub fn escape(text: &str) -> String {
    printable_in_log(text)
}

/// A path, made safe to print: file names may be hostile.
pub fn path(path: &Path) -> String {
    escape(&path.to_string_lossy())
}

/// Columns that labels of a summary take.
const LABELS: usize = 14;

/// A line of a summary: a label, and `text`, which may come from a file, escaped and wrapped next to it.
pub fn labelled(label: &str, style: Style, text: &str) -> String {
    labelled_in(label, LABELS, style, text)
}

/// A line of a summary whose labels take `columns` columns.
pub fn labelled_in(label: &str, columns: usize, style: Style, text: &str) -> String {
    let body = wrapped(text, columns, style);
    format!("  {label:<width$}{}", &body[columns..], width = columns - 2)
}

/// `text`, which may come from a file, escaped and broken between words to the terminal's width, each line indented by
/// `indent` columns.
pub fn wrapped(text: &str, indent: usize, style: Style) -> String {
    let room = width().saturating_sub(indent).max(20);
    let mut lines: Vec<String> = Vec::new();
    let mut taken = 0;
    for word in escape(text).split(' ') {
        let wide = columns(word);
        match lines.last_mut() {
            Some(line) if taken + 1 + wide <= room => {
                line.push(' ');
                line.push_str(word);
                taken += 1 + wide;
            }
            _ => {
                lines.push(word.to_string());
                taken = wide;
            }
        }
    }
    lines.iter().map(|line| format!("{}{}\n", " ".repeat(indent), paint(style, line))).collect()
}

/// Columns that `text` takes on a terminal.
fn columns(text: &str) -> usize {
    unicode_width::UnicodeWidthStr::width(text)
}

/// `text` in `style`.
pub fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Emphasised.
pub fn bold(text: &str) -> String {
    paint(Style::new().bold(), text)
}

/// Dimmed.
pub fn dim(text: &str) -> String {
    paint(Style::new().dimmed(), text)
}

/// `value` over several lines, with invisible characters escaped.
pub fn json(value: &serde_json::Value) -> String {
    ckpt_inspect::printable_json(&format!("{value:#}\n"))
}

/// The colour of a verdict, in the terminal's 16.
pub fn verdict_style(verdict: Option<Verdict>) -> Style {
    let color = match verdict {
        Some(Verdict::Healthy) => AnsiColor::Green,
        Some(Verdict::Untrained) => AnsiColor::Cyan,
        Some(Verdict::Weak) => AnsiColor::Yellow,
        Some(Verdict::Dying) => AnsiColor::Magenta,
        Some(Verdict::Dead | Verdict::Corrupt) => AnsiColor::Red,
        Some(_) => return Style::new(),
        None => return Style::new().dimmed(),
    };
    Style::new().fg_color(Some(color.into()))
}

/// Of more checkpoints or tensors than this, the worst are printed, and how many more there are.
pub const MOST_LISTED: usize = 100;

/// How many of each verdict there are: `6 healthy, 4 weak, 2 dead`.
pub fn verdicts(verdicts: impl IntoIterator<Item = Option<Verdict>>) -> String {
    let word = |(verdict, count): &(Option<Verdict>, usize)| {
        format!("{count} {}", verdict.map_or("not judged", Verdict::name))
    };
    ckpt_reports::worst::counts(verdicts).iter().rev().map(word).collect::<Vec<_>>().join(", ")
}

/// A table of left- or right-aligned columns; the first one names the row.
pub struct Table {
    rows: Vec<Vec<(String, Style)>>,
    right: Vec<bool>,
    /// Columns to leave out when the terminal is narrow, first to go first.
    expendable: Vec<usize>,
}

/// The naming column keeps this many characters as long as there are columns to leave out.
const NAME_WIDTH: usize = 44;
/// The naming column never has fewer characters than this.
const SHORTEST_NAME: usize = 16;
/// Without a terminal, names are shown whole, and rows are aligned up to this many characters.
const LONGEST_PADDED: usize = 120;

impl Table {
    /// A table of these columns, right-aligned where `true`. `expendable` headings are left out, in that order, when
    /// the terminal is narrow.
    pub fn new(columns: &[(&str, bool)], expendable: &[&str]) -> Self {
        let underlined = Style::new().underline();
        let position = |name: &&str| columns.iter().position(|(heading, _)| heading == name);
        Table {
            rows: vec![columns.iter().map(|(heading, _)| (heading.to_string(), underlined)).collect()],
            right: columns.iter().map(|(_, right)| *right).collect(),
            expendable: expendable.iter().filter_map(position).collect(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<(String, Style)>) {
        self.rows.push(cells);
    }

    /// The table in lines of at most `width` characters, if leaving out columns and shortening names suffices.
    pub fn render(&self, width: usize) -> String {
        let widths: Vec<usize> = (0..self.right.len())
            .map(|c| self.rows.iter().filter_map(|row| row.get(c)).map(|(text, _)| self::columns(text)).max())
            .map(Option::unwrap_or_default)
            .collect();
        let widest = |c: usize| widths[c];
        let mut columns: Vec<usize> = (0..self.right.len()).collect();
        let others = |columns: &[usize]| columns[1..].iter().map(|&c| widest(c) + 2).sum::<usize>();
        for gone in &self.expendable {
            if widest(0).min(NAME_WIDTH) + others(&columns) > width {
                columns.retain(|c| c != gone);
            }
        }
        // If it is narrower still, the columns before the last one are left out, from the right.
        while columns.len() > 2 && widest(0).min(SHORTEST_NAME) + others(&columns) > width {
            columns.remove(columns.len() - 2);
        }
        let shortens = width < usize::MAX;
        let name_width = widest(0).min(width.saturating_sub(others(&columns)).max(SHORTEST_NAME));
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (position, &column) in columns.iter().enumerate() {
                let Some((text, style)) = row.get(column) else { continue };
                let cell_width = match position {
                    0 if shortens => name_width,
                    // One long name must not widen every row.
                    0 => name_width.min(LONGEST_PADDED),
                    _ => widest(column),
                };
                let text = if shortens { shorten(text, cell_width) } else { text.clone() };
                let gap = " ".repeat(cell_width.saturating_sub(self::columns(&text)));
                let painted = if text.is_empty() { String::new() } else { paint(*style, &text) };
                if position > 0 {
                    line.push_str("  ");
                }
                line += &if self.right[column] { gap + &painted } else { painted + &gap };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// `text` in at most `width` columns, cut in the middle: names differ at both ends.
pub fn shorten(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_string();
    }
    let keep = width.saturating_sub(1);
    let fits = |room: usize| {
        let mut used = 0;
        move |c: &char| {
            used += unicode_width::UnicodeWidthChar::width(*c).unwrap_or(0);
            used <= room
        }
    };
    let head: String = text.chars().take_while(fits(keep / 2)).collect();
    let tail: Vec<char> = text.chars().rev().take_while(fits(keep - keep / 2)).collect();
    format!("{head}…{}", tail.into_iter().rev().collect::<String>())
}

/// Progress over bytes, on standard error and only on a terminal.
pub struct Progress(ProgressBar);

/// A bar over the `bytes` bytes of a piece of work.
pub fn progress(bytes: u64, doing: &str) -> Progress {
    // A small piece of work is over before a bar could be read.
    if !shows_progress() || bytes < 64 << 20 {
        return Progress(ProgressBar::hidden());
    }
    let bar = ProgressBar::new(bytes);
    let template = format!("{doing} {{wide_bar}} {{bytes}}/{{total_bytes}} {{bytes_per_sec}} {{eta}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    Progress(bar)
}

/// A bar over the steps of a run, of which `done` have been taken, with a message next to it.
#[cfg(feature = "train")]
pub fn steps(done: u64, all: u64) -> Progress {
    if !shows_progress() {
        return Progress(ProgressBar::hidden());
    }
    let bar = ProgressBar::new(all).with_position(done);
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len} {wide_bar} {msg} {eta}") {
        bar.set_style(style);
    }
    // It is there while the first step is taken, which may last minutes.
    bar.enable_steady_tick(std::time::Duration::from_secs(1));
    Progress(bar)
}

impl Progress {
    /// Moves to `position` with `message` next to the bar.
    #[cfg(feature = "train")]
    pub fn at(&self, position: u64, message: String) {
        self.0.set_position(position);
        self.0.set_message(message);
    }

    /// Whether nothing is shown, as without a terminal.
    #[cfg(feature = "train")]
    pub fn is_hidden(&self) -> bool {
        self.0.is_hidden()
    }

    /// Prints a note without disturbing the bar.
    #[cfg(feature = "train")]
    pub fn note(&self, message: &str) {
        self.0.suspend(|| note(message));
    }

    /// `bytes` more are done.
    pub fn done(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Removes the bar.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Writes `contents` to `path` as [`staged::write`] does.
pub fn write_file(path: &Path, contents: &[u8], force: bool) -> Result<(), Failure> {
    Ok(staged::write(path, contents, force)?)
}

/// [`write_file`], which stops waiting for the reader of a pipe once `stop` is set.
#[cfg(feature = "infer")]
pub fn write_file_until(
    path: &Path,
    contents: &[u8],
    force: bool,
    stop: &std::sync::atomic::AtomicBool,
) -> Result<(), Failure> {
    Ok(staged::write_until(path, contents, force, stop)?)
}

/// Whether an output may go to `path`: an existing file needs `force`; pipes and devices are allowed.
pub fn may_write(path: &Path, force: bool) -> Result<(), Failure> {
    Ok(staged::may_write_or_feed(path, force)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a terminal, the text is a single line; each word is looked at once.
    #[test]
    fn long_texts_are_wrapped_in_one_go() {
        let words = vec!["größe"; 1 << 18].join(" ");
        assert_eq!(wrapped(&words, 2, Style::new()), format!("  {words}\n"));
    }
}
