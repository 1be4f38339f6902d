//! Conversations as training text: written with the template that `ckpt chat` uses, only the answers learnt.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use ckpt_infer::{Talk, Template, TokenRole, Tokenizer, Written};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Error, Result};

/// How `messages` are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Chat {
    /// As `ckpt chat` does by itself: the tokenizer's own chat template, else tags if it has a token for them, else
    /// plain turns.
    #[default]
    Auto,
    /// The tokenizer's own chat template.
    Model,
    /// `<|user|>` and `<|assistant|>` on lines before the turns.
    Tags,
    /// `User:` and `Assistant:` before the turns.
    Plain,
}

/// Turns of one conversation at most: each answer is written with all before it.
const MOST_TURNS: usize = 1000;

/// A template with the tokens around a text.
pub(super) struct Writer {
    template: Template,
    begin: String,
    end: String,
    /// The texts of special tokens, with which a turn may end.
    specials: Vec<String>,
    /// Whether the template writes content that is a list of parts.
    writes_parts: OnceLock<bool>,
}

impl Writer {
    /// The one that `chat` names for `tokenizer`.
    ///
    /// # Errors
    /// `Settings` for the model's own if there is none.
    pub fn new(tokenizer: &Tokenizer, chat: Chat) -> Result<Self> {
        let template = match chat {
            Chat::Auto => Template::of(tokenizer),
            Chat::Tags => Template::Tags,
            Chat::Plain => Template::Plain,
            Chat::Model => match tokenizer.chat_template() {
                Some(source) => Template::Jinja(source.to_string()),
                None => {
                    return Err(Error::settings(format!(
                        "{}: no chat template in a tokenizer_config.json next to it; use the template plain or tags",
                        tokenizer.path().display()
                    )));
                }
            },
        };
        let text = |role| tokenizer.role(role).and_then(|id| tokenizer.token(id)).unwrap_or_default();
        let stops = tokenizer.stops();
        let specials = (0..tokenizer.vocab_size() as u32)
            .filter(|id| tokenizer.is_special(*id) || stops.contains(id))
            .filter_map(|id| tokenizer.token(id))
            .filter(|text| !text.trim().is_empty())
            .collect();
        let (begin, end) = (text(TokenRole::Bos), text(TokenRole::Eos));
        Ok(Writer { template, begin, end, specials, writes_parts: OnceLock::new() })
    }

    /// What tells its texts from those of another.
    pub fn fingerprint(&self) -> [&str; 4] {
        let own = match &self.template {
            Template::Jinja(source) => source.as_str(),
            _ => "",
        };
        [self.template.name(), own, &self.begin, &self.end]
    }

    /// The conversation of `messages` as texts, of which each says what of it the assistant says, from the message at `learnt` on.
    /// It is one, unless the template writes an answer otherwise once another follows.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub fn texts(
        &self,
        messages: &[Value],
        learnt: usize,
        tools: Option<&Value>,
    ) -> Result<Vec<Written>, String> {
        if messages.len() > MOST_TURNS {
            return Err(format!("has {} messages, and more than {MOST_TURNS} are too many", messages.len()));
        }
        let tools = self.tools(tools)?;
        let messages: Vec<Value> = messages.iter().map(|m| self.message(m)).collect::<Result<_, String>>()?;
        let talk = |until: usize| Talk::new(&messages[..until], tools.as_deref());
        let mut texts = Vec::new();
        if self.template.marks_answers() {
            let mut written = self.template.marked(talk(messages.len()), self.around(), None)?;
            if learnt > 0 {
                let asks = self.template.write(talk(learnt), self.around(), None, true)?;
                let start = same(&asks, &written.text);
                written.said.retain(|said| said.start >= start);
            }
            texts.extend((!written.said.is_empty()).then_some(written));
        } else {
            let is_answer =
                |message: &Value| message.get("role").and_then(Value::as_str) == Some("assistant");
            // From the last one on: the text of a later one holds those before, if the template writes them as they were.
            for (at, _) in
                messages.iter().enumerate().skip(learnt).rev().filter(|(_, message)| is_answer(message))
            {
                let answered = self.template.write(talk(at + 1), self.around(), None, false)?;
                let start = self.start(&messages[..=at], tools.as_deref(), &answered)?;
                self.add(&mut texts, answered, start);
            }
            texts.reverse();
        }
        match texts.is_empty() {
            true => Err("has no message of the assistant".into()),
            false => Ok(texts),
        }
    }

    fn around(&self) -> (&str, &str) {
        (&self.begin, &self.end)
    }

    /// Adds what was said from `start` on in the text `answered`: to the last of `texts`, if that begins with it.
    fn add(&self, texts: &mut Vec<Written>, answered: String, start: usize) {
        // A template may end a text where it ends, with a token that is not there once it goes on.
        let shorter = answered.strip_suffix(&self.end).filter(|_| !self.end.is_empty());
        let last = texts.last_mut().and_then(|last: &mut Written| {
            let bodies = [Some(answered.as_str()), shorter];
            let body = bodies.into_iter().flatten().find(|body| last.text.starts_with(*body))?;
            Some((body.len(), last))
        });
        match last {
            Some((end, last)) => {
                let end = last.said.first().map_or(end, |next| end.min(next.start));
                last.said.insert(0, self.turn(&last.text, start..end));
            }
            None => {
                let mut written = Written::default();
                written.said.push(self.turn(&answered, start..answered.len()));
                written.text = answered;
                texts.push(written);
            }
        }
    }

    /// Of what was said in `text`, that to the mark that ends it: spaces after that are the template's.
    fn turn(&self, text: &str, said: Range<usize>) -> Range<usize> {
        let range = said.start.min(said.end)..said.end;
        let whole = text[range.clone()].trim_end();
        let ends = self.specials.iter().any(|special| whole.ends_with(special.as_str()));
        if ends { range.start..range.start + whole.len() } else { range }
    }

    /// Where the last of `messages`, the assistant's, begins in the text `answered`: after what asks for it.
    fn start(&self, messages: &[Value], tools: Option<&Value>, answered: &str) -> Result<usize, String> {
        let Some((last, before)) = messages.split_last() else { return Ok(0) };
        let asks = match before.is_empty() {
            true => None,
            false => self.template.write(Talk::new(before, tools), self.around(), None, true).ok(),
        };
        if let Some(asks) = asks {
            return Ok(same(&asks, answered));
        }
        // Nothing asks for it, so it is where another text would be.
        let begins = |c: char| {
            last.get("content").and_then(Value::as_str).is_some_and(|t| t.trim_start().starts_with(c))
        };
        let other = if begins('x') { "y" } else { "x" };
        let other = [before, &[json!({ "role": "assistant", "content": other })]].concat();
        let other = self.template.write(Talk::new(&other, tools), self.around(), None, false)?;
        Ok(same(&other, answered))
    }

    /// The tools of a line: a list, also as text.
    fn tools<'v>(&self, tools: Option<&'v Value>) -> Result<Option<Cow<'v, Value>>, String> {
        let tools = match tools {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
            Some(Value::String(text)) => {
                Cow::Owned(serde_json::from_str(text).map_err(|_| "has `tools` that are not JSON")?)
            }
            Some(tools) => Cow::Borrowed(tools),
        };
        let some = tools.as_array().is_none_or(|list| !list.is_empty());
        self.writes(some, "tools")?;
        Ok(Some(tools))
    }

    /// Refuses what only a model's own template writes.
    fn writes(&self, has: bool, what: &str) -> Result<(), String> {
        match has && !matches!(self.template, Template::Jinja(_)) {
            true => Err(format!("has `{what}`, which the template `{}` cannot write", self.template.name())),
            false => Ok(()),
        }
    }

    /// A message as the template takes it.
    fn message(&self, message: &Value) -> Result<Value, String> {
        if message.get("role").and_then(Value::as_str).is_none() {
            return Err("has a message without a role".into());
        }
        let calls = message.get("tool_calls").is_some_and(|calls| !calls.is_null() && *calls != json!([]));
        self.writes(calls, "tool_calls")?;
        match message.get("content") {
            Some(Value::String(_)) => Ok(message.clone()),
            Some(Value::Array(parts)) => {
                let texts: Option<Vec<&str>> = parts.iter().map(part).collect();
                let texts = texts.ok_or("has a message with a part that is not text")?;
                let mut message = message.clone();
                if !self.writes_parts() {
                    message["content"] = texts.concat().into();
                }
                Ok(message)
            }
            None | Some(Value::Null) if calls => Ok(message.clone()),
            _ => Err("has a message without content".into()),
        }
    }

    /// Whether the template writes the parts of a list, and not the list itself.
    fn writes_parts(&self) -> bool {
        const PART: &str = "a part of it";
        *self.writes_parts.get_or_init(|| {
            let message = json!({ "role": "user", "content": [{ "type": "text", "text": PART }] });
            let written = self.template.write(Talk::new(&[message], None), self.around(), None, false);
            let is_list = |text: &str| text.contains("'type'") || text.contains("\"type\"");
            written.is_ok_and(|text| text.contains(PART) && !is_list(&text))
        })
    }
}

/// A part of a message's content that is text.
fn part(part: &Value) -> Option<&str> {
    match part.get("type").and_then(Value::as_str) {
        Some("text") | None => part.get("text").unwrap_or(part).as_str(),
        Some(_) => None,
    }
}

/// How many bytes two texts have in common at their beginning.
fn same(a: &str, b: &str) -> usize {
    let differ = a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b);
    differ.map_or(a.len().min(b.len()), |((at, _), _)| at)
}
