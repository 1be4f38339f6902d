//! A conversation, and its prompt: as many of its last turns as fit into the context.

use crate::template::{Clock, Message, Template};
use crate::tokenizer::{Specials, Tokenizer};
use crate::{Error, Result, TokenRole};

/// The turns so far, and the system message.
#[derive(Clone, Debug)]
pub struct Conversation {
    template: Template,
    system: Option<String>,
    turns: Vec<Message>,
    clock: Option<Clock>,
}

impl Conversation {
    /// An empty conversation; `clock` gives the date to templates that write it.
    pub fn new(template: Template, system: Option<String>, clock: Option<Clock>) -> Self {
        Conversation { template, system, turns: Vec::new(), clock }
    }

    /// How it is formatted.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// The system message.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Sets or removes the system message.
    pub fn set_system(&mut self, system: Option<String>) {
        self.system = system;
    }

    /// Removes all turns.
    pub fn clear(&mut self) {
        self.turns.clear();
    }

    /// The turns so far.
    pub fn turns(&self) -> &[Message] {
        &self.turns
    }

    /// Adds a turn of the user.
    pub fn ask(&mut self, text: &str) {
        self.turns.push(Message::new("user", text));
    }

    /// Adds a turn of the model.
    pub fn answer(&mut self, text: &str) {
        self.turns.push(Message::new("assistant", text));
    }

    /// Removes the user's last turn if the model has not answered it.
    pub fn withdraw(&mut self) {
        self.turns.pop_if(|turn| turn.role == "user");
    }

    /// The tokens that ask for the model's next turn, `positions` at most. If needed the oldest turns are dropped; also
    /// returns how many.
    ///
    /// # Errors
    /// `ContextFull` when the last turn alone is too long; `Tokenizer` for a template that fails.
    pub fn prompt(&mut self, tokenizer: &Tokenizer, positions: usize) -> Result<(Vec<u32>, usize)> {
        let mut forgotten = 0;
        loop {
            let ids = self.write(tokenizer)?;
            if ids.len() <= positions {
                return Ok((ids, forgotten));
            }
            // A conversation begins with the user.
            let next = self.turns.iter().skip(1).position(|turn| turn.role == "user");
            let Some(next) = next else {
                return Err(Error::ContextFull { wanted: ids.len(), limit: positions });
            };
            self.turns.drain(..=next);
            forgotten += next + 1;
        }
    }

    fn write(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let system = self.system.iter().map(|text| Message::new("system", text.as_str()));
        let messages: Vec<Message> = system.chain(self.turns.iter().cloned()).collect();
        let text = |role| tokenizer.role(role).and_then(|id| tokenizer.token(id)).unwrap_or_default();
        let (bos, eos) = (text(TokenRole::Bos), text(TokenRole::Eos));
        let wrong = |what| Error::Tokenizer { path: tokenizer.path().to_path_buf(), what };
        let prompt = self.template.render(&messages, (&bos, &eos), self.clock).map_err(wrong)?;
        tokenizer.prompt(&prompt, Specials::Parsed)
    }
}
