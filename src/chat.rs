//! `ckpt chat`: talk to a model.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Read, StdinLock};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use ckpt_infer::{
    Cache, Conversation, Generator, Logits, Model, Reason, Runner, SampleOptions, Stop, Template, Tokenizer,
};
use etcetera::BaseStrategy;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

use crate::generate::{Sampling, TokenizerArgs, Writer, at_least_one, prefill};
use crate::model::ModelArgs;
use crate::signal::Signal;
use crate::{Failure, capture, exit, terminal};

/// The most bytes of a line, and of a turn.
const LONGEST_LINE: u64 = 1 << 20;

/// Lines that the history keeps.
const HISTORY: usize = 1000;

const HELP: &str = "/clear          start a new conversation
/system TEXT    tell the model something before everything else; without a text, take it back
/help           this list
/quit           leave, as Ctrl-D does
A line that ends in \\ continues on the next one. Ctrl-C stops an answer.";

/// Talk to a model.
///
/// Lines that begin with / are commands; /help lists them. When standard input is not a terminal, each of its lines is
/// a turn.
#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// How the conversation is formatted: with the model's own template if it has one, else with `<|user|>` tags if its
    /// vocabulary has them, else as "User:" and "Assistant:".
    #[arg(long, value_name = "TEMPLATE", default_value = "auto")]
    template: Choice,
    /// System message.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Maximum number of tokens of an answer.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 512, value_parser = at_least_one)]
    max_tokens: usize,
    /// End an answer before this text; may be repeated.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Do not save what is typed to the history file.
    #[arg(long)]
    no_history: bool,
    #[command(flatten, next_help_heading = "Choosing tokens")]
    sampling: Sampling,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Choice {
    Auto,
    /// The model's own template.
    Model,
    /// `<|user|>`, `<|assistant|>`, `<|system|>`.
    Tags,
    /// "User:", "Assistant:".
    Plain,
}

/// The source of turns.
enum Input {
    Terminal { editor: Box<Editor<(), FileHistory>>, history: Option<PathBuf> },
    Pipe(StdinLock<'static>),
}

/// What is needed for an answer.
struct Talk<'t, 'm> {
    args: &'t Args,
    model: &'m Model,
    tokenizer: &'t Tokenizer,
    runner: Runner<'m>,
    cache: Cache,
    conversation: Conversation,
    options: SampleOptions,
    signal: Signal,
    /// Answers so far, by which the random seed advances.
    answers: u64,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if capture::is_captured() {
        return Err(Failure::usage("chat needs input: use a terminal or pipe lines in; or use `ckpt infer`"));
    }
    let pool = args.model.pool();
    let (checkpoint, model) = args.model.open(&pool)?;
    let tokenizer = args.tokenizer.open(&checkpoint, &model)?;
    let template = template(args, &tokenizer)?;
    let interactive = std::io::stdin().is_terminal();
    let mut input = if interactive {
        terminal::note(&format!(
            "{}, template {}; /help lists the commands, Ctrl-D leaves",
            terminal::path(&checkpoint.path),
            template.name()
        ));
        Input::terminal(args.no_history)?
    } else {
        Input::Pipe(std::io::stdin().lock())
    };
    let default = SampleOptions::default().with(|o| {
        o.temperature = 0.7;
        o.top_p = 0.95;
        o.repetition_penalty = 1.2;
    });
    let mut talk = Talk {
        args,
        model: &model,
        tokenizer: &tokenizer,
        runner: Runner::new(&model, &pool),
        cache: args.model.cache(&model),
        conversation: Conversation::new(template, args.system.clone(), Some(now)),
        options: args.sampling.options(default),
        signal: Signal::listen_for_interrupts()?,
        answers: 0,
    };
    while let Some(line) = input.turn()? {
        let line = line.trim();
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match command {
            "" => {}
            "/quit" | "/exit" => break,
            "/help" => terminal::note(HELP),
            "/clear" => {
                talk.conversation.clear();
                terminal::note("started a new conversation");
            }
            "/system" => {
                let text = Some(rest.trim()).filter(|text| !text.is_empty()).map(str::to_string);
                terminal::note(if text.is_some() { "system message set" } else { "system message removed" });
                talk.conversation.set_system(text);
            }
            _ if command.starts_with('/') => {
                terminal::note(&format!(
                    "unknown command {}; /help lists the commands",
                    terminal::escape(command)
                ));
            }
            _ => {
                if !talk.answer(line)? {
                    break;
                }
            }
        }
    }
    Ok(exit::FINE)
}

fn template(args: &Args, tokenizer: &Tokenizer) -> Result<Template, Failure> {
    Ok(match args.template {
        Choice::Auto => Template::of(tokenizer),
        Choice::Tags => Template::Tags,
        Choice::Plain => Template::Plain,
        Choice::Model => match tokenizer.chat_template() {
            Some(source) => Template::Jinja(source.to_string()),
            None => {
                return Err(Failure::usage(format!(
                    "{}: no chat template in it or in a tokenizer_config.json next to it; try --template plain or --template tags",
                    tokenizer.path().display()
                )));
            }
        },
    })
}

impl Talk<'_, '_> {
    /// Answers `text`; false if the output is no longer read.
    fn answer(&mut self, text: &str) -> Result<bool, Failure> {
        self.signal.flag.store(false, Ordering::Relaxed);
        self.conversation.ask(text);
        let limit = self.model.config().max_seq_len;
        // An answer gets a quarter of the context at least, unless it may not be that long.
        let positions = limit.saturating_sub(self.args.max_tokens.min(limit / 4)).max(1);
        let (ids, forgotten) = match self.conversation.prompt(self.tokenizer, positions) {
            Ok(prompt) => prompt,
            Err(error @ ckpt_infer::Error::ContextFull { .. }) => {
                self.conversation.withdraw();
                terminal::error(&error.to_string());
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        };
        if forgotten > 0 {
            let turns = if forgotten == 1 { "turn was" } else { "turns were" };
            terminal::note(&format!("the context is full: the first {forgotten} {turns} dropped"));
        }
        if self.cache.start() > 0 {
            // A window that has slid no longer contains the beginning.
            self.cache = self.args.model.cache(self.model);
        }
        let reused = self.cache.keep_common_prefix(&ids)?;
        let prompt = &ids[reused..];
        let Some(logits) = prefill(&mut self.runner, &mut self.cache, prompt, Logits::Last, &self.signal)?
        else {
            self.conversation.withdraw();
            terminal::note("stopped");
            return Ok(true);
        };
        let template = self.conversation.template().stops().iter().map(|stop| stop.to_string());
        let stops: Vec<String> = template.chain(self.args.stop.iter().cloned()).collect();
        let mut writer = Writer::new(self.tokenizer, &ids, false, &stops);
        let mut stop = Stop::after(self.args.max_tokens);
        stop.ids = self.tokenizer.stops().to_vec();
        let options = self.options.clone().with(|o| o.seed = self.options.seed.wrapping_add(self.answers));
        self.answers += 1;
        let mut printed = Ok(true);
        let mut begun = false;
        let mut show = |text: &str| {
            let shown = if begun { text } else { text.trim_start() };
            begun |= !shown.is_empty();
            terminal::print_model_text(shown)
        };
        let generated =
            Generator::new(&mut self.runner, &mut self.cache, &options, stop).after(logits, &mut |token| {
                printed = show(&writer.push(token.id));
                matches!(printed, Ok(true)) && !writer.stopped && !self.signal.arrived()
            });
        let outcome = generated?;
        let mut reading = printed?;
        if reading {
            reading = show(&writer.finish())? && terminal::print_model_text("\n")?;
        }
        match outcome.reason {
            Reason::ContextFull => terminal::note("the context is full (--slide continues past it)"),
            Reason::MaxTokens => terminal::note("the answer was cut at --max-tokens"),
            Reason::Callback if self.signal.arrived() => terminal::note("stopped"),
            _ => {}
        }
        self.conversation.answer(writer.text.trim());
        Ok(reading)
    }
}

impl Input {
    fn terminal(no_history: bool) -> Result<Self, Failure> {
        let cannot = |e: ReadlineError| Failure::unwritable(format!("the terminal cannot be used: {e}"));
        let config = Config::builder().max_history_size(HISTORY).and_then(|c| c.history_ignore_dups(true));
        let config = config.map_err(cannot)?.history_ignore_space(true).build();
        let mut editor = Editor::with_config(config).map_err(cannot)?;
        let file =
            || Some(etcetera::choose_base_strategy().ok()?.data_dir().join("ckpt").join("chat-history"));
        let history = if no_history { None } else { file() };
        if let Some(file) = history.as_ref().filter(|file| file.is_file())
            && let Err(error) = editor.load_history(file)
        {
            terminal::warning(&format!("{}: cannot be read: {error}", file.display()));
        }
        Ok(Input::Terminal { editor: Box::new(editor), history })
    }

    /// The user's next turn; `None` at the end.
    fn turn(&mut self) -> Result<Option<String>, Failure> {
        let mut turn = String::new();
        while let Some(line) = self.line(if turn.is_empty() { "> " } else { "… " })? {
            match line.strip_suffix('\\') {
                Some(_) if turn.len() as u64 > LONGEST_LINE => {
                    return Err(Failure::usage(format!(
                        "a turn is longer than {}",
                        terminal::bytes(LONGEST_LINE)
                    )));
                }
                Some(begun) => {
                    turn.push_str(begun);
                    turn.push('\n');
                }
                None => {
                    turn.push_str(&line);
                    self.remember(&turn);
                    return Ok(Some(turn));
                }
            }
        }
        Ok(Some(turn).filter(|turn| !turn.is_empty()))
    }

    fn line(&mut self, prompt: &str) -> Result<Option<String>, Failure> {
        match self {
            Input::Pipe(input) => {
                let cannot = |what: String| Failure::usage(format!("standard input: {what}"));
                let mut line = Vec::new();
                let read = input.take(LONGEST_LINE + 1).read_until(b'\n', &mut line);
                read.map_err(|e| cannot(e.to_string()))?;
                if line.len() as u64 > LONGEST_LINE {
                    return Err(cannot(format!(
                        "a line is longer than {}; break it with \\ at the end of lines",
                        terminal::bytes(LONGEST_LINE)
                    )));
                }
                let ended = !line.is_empty();
                while line.last().is_some_and(|byte| b"\r\n".contains(byte)) {
                    line.pop();
                }
                let line = String::from_utf8(line).map_err(|e| {
                    let at = e.utf8_error().valid_up_to();
                    cannot(format!("a line is not UTF-8 at byte {at}; convert it, for example with iconv"))
                })?;
                Ok(ended.then_some(line))
            }
            Input::Terminal { editor, .. } => loop {
                match editor.readline(prompt) {
                    Ok(line) => return Ok(Some(line)),
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(ReadlineError::Interrupted) => terminal::note("use Ctrl-D or /quit to leave"),
                    Err(ReadlineError::Signal(_)) => {}
                    Err(error) => {
                        return Err(Failure::unwritable(format!("the terminal cannot be used: {error}")));
                    }
                }
            },
        }
    }

    /// Adds a turn to the history, and to its file at once: another window may be open.
    fn remember(&mut self, turn: &str) {
        let Input::Terminal { editor, history } = self else { return };
        if !editor.add_history_entry(turn.trim_end()).unwrap_or(false) {
            return;
        }
        let Some(file) = history else { return };
        let folder = file.parent().map_or(Ok(()), std::fs::create_dir_all);
        let saved = folder.map_err(ReadlineError::from).and_then(|()| editor.append_history(file));
        if let Err(error) = saved {
            terminal::warning(&format!("{}: cannot be written: {error}", file.display()));
            *history = None;
        }
    }
}

/// The present time here, as `strftime` writes it.
fn now(format: &str) -> Option<String> {
    let mut text = String::new();
    write!(text, "{}", chrono::Local::now().format(format)).ok()?;
    Some(text)
}
