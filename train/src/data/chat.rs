//! Conversations as training text: written with the template that `ckpt chat` uses, only the answers learnt.

use ckpt_infer::{Message, Template, TokenRole, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

/// A piece of a conversation's text.
pub(super) struct Piece {
    /// Whether the assistant says it.
    pub answer: bool,
    /// Whether a text of its own begins with it.
    pub is_new: bool,
    pub text: String,
}

/// A template with the tokens around a text.
pub(super) struct Writer {
    template: Template,
    begin: String,
    end: String,
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
        Ok(Writer { template, begin: text(TokenRole::Bos), end: text(TokenRole::Eos) })
    }

    /// What tells its texts from those of another.
    pub fn fingerprint(&self) -> [&str; 4] {
        let own = match &self.template {
            Template::Jinja(source) => source.as_str(),
            _ => "",
        };
        [self.template.name(), own, &self.begin, &self.end]
    }

    /// The conversation as pieces of text, each an answer or only context. What follows the last answer is left out.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub fn pieces(&self, messages: &[Value]) -> Result<Vec<Piece>, String> {
        if messages.len() > MOST_TURNS {
            return Err(format!("has {} messages, and more than {MOST_TURNS} are too many", messages.len()));
        }
        let message = |value: &Value| {
            let part = |name: &str| value.get(name).and_then(Value::as_str);
            let content = part("content").ok_or("has a message without content")?;
            Ok(Message::new(part("role").ok_or("has a message without a role")?, content))
        };
        let messages: Vec<Message> = messages.iter().map(message).collect::<Result<_, &str>>()?;
        let around = (self.begin.as_str(), self.end.as_str());
        let (mut pieces, mut written) = (Vec::new(), String::new());
        for (at, _) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            let asks = self.template.render(&messages[..at], around, None)?;
            let answered = self.template.finished(&messages[..=at], around, None)?;
            // A template may leave out of earlier answers what it writes in the last one: then this is a text of its own.
            let goes_on = asks.strip_prefix(&written).filter(|_| !written.is_empty());
            let context = goes_on.unwrap_or(&asks);
            // And what it asks with need not be what an answer begins with.
            let same = asks.char_indices().zip(answered.chars()).find(|((_, a), b)| a != b);
            let same = same.map_or(asks.len().min(answered.len()), |((at, _), _)| at);
            let left = asks.len() - same;
            let text = context[..context.len().saturating_sub(left)].to_string();
            pieces.push(Piece { answer: false, is_new: goes_on.is_none(), text });
            pieces.push(Piece { answer: true, is_new: false, text: answered[same..].to_string() });
            written = answered;
        }
        match pieces.is_empty() {
            true => Err("has no message of the assistant".into()),
            false => Ok(pieces),
        }
    }
}
