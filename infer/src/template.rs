//! How a conversation is formatted for a model: plain turns, `<|user|>` turns, or the model's own Jinja template.

mod filters;
mod jinja;
mod macros;
mod methods;
mod numbers;
mod python;
mod rewrite;

use std::ops::Range;

use minijinja::Error as JinjaError;
use serde_json::{Value, json};

use crate::tokenizer::Tokenizer;
use jinja::Form;

/// Writes the present time where the user is, in a format of `strftime`; `None` for a format that it does not know.
pub type Clock = fn(&str) -> Option<String>;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }
}

/// A conversation with all that a template may write of it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Talk<'a> {
    /// Messages with `role`, `content` and any other fields.
    pub messages: &'a [Value],
    /// The tools that the model may call.
    pub tools: Option<&'a Value>,
}

impl<'a> Talk<'a> {
    /// The conversation of these messages.
    pub fn new(messages: &'a [Value], tools: Option<&'a Value>) -> Self {
        Talk { messages, tools }
    }
}

/// A conversation as text, and the bytes of it that the model says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The text.
    pub text: String,
    /// What the model says.
    pub said: Vec<Range<usize>>,
}

/// A format of conversations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Template {
    /// `User: …` and `Assistant: …`, one line each.
    Plain,
    /// `<|user|>`, `<|assistant|>` and `<|system|>`, each on a line before the turn, and the end-of-text token after
    /// it.
    Tags,
    /// A Jinja template as `chat_template` of tokenizer_config.json and `tokenizer.chat_template` of GGUF have it.
    Jinja(String),
}

impl Template {
    /// The default for a tokenizer: its model's own template, else tags if it has a token for them, else plain turns.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        match tokenizer.chat_template() {
            Some(template) => Template::Jinja(template.to_string()),
            None if tokenizer.special("<|user|>").is_some() => Template::Tags,
            None => Template::Plain,
        }
    }

    /// The prompt that asks for the assistant's next turn after `messages`. `around` are the texts of the tokens that
    /// begin and end a text; without a `clock`, a Jinja template does not know the date.
    ///
    /// # Errors
    /// The error in a Jinja template, or the message with which it refuses the conversation.
    pub fn render(
        &self,
        messages: &[Message],
        around: (&str, &str),
        clock: Option<Clock>,
    ) -> Result<String, String> {
        let messages = values(messages);
        self.write(Talk::new(&messages, None), around, clock, true)
    }

    /// The conversation of `messages` as it stands, which asks for nothing: as [`Template::render`], without the text
    /// that begins the next turn.
    ///
    /// # Errors
    /// Those of [`Template::render`].
    pub fn finished(
        &self,
        messages: &[Message],
        around: (&str, &str),
        clock: Option<Clock>,
    ) -> Result<String, String> {
        let messages = values(messages);
        self.write(Talk::new(&messages, None), around, clock, false)
    }

    /// The conversation `talk`, which asks for the assistant's next turn or not: [`Template::render`] or
    /// [`Template::finished`] with everything that the template may write.
    ///
    /// # Errors
    /// Those of [`Template::render`].
    pub fn write(
        &self,
        talk: Talk<'_>,
        around: (&str, &str),
        clock: Option<Clock>,
        asks: bool,
    ) -> Result<String, String> {
        match self {
            Template::Plain => Ok(plain(talk.messages) + if asks { "Assistant:" } else { "" }),
            Template::Tags => Ok(tags(talk.messages, around.1) + if asks { "<|assistant|>\n" } else { "" }),
            Template::Jinja(source) => {
                let form = if asks { Form::Asks } else { Form::Finished };
                jinja::render(source, talk, around, clock, form).map_err(|e| describe(&e))
            }
        }
    }

    /// Whether it marks what the model says, in `{% generation %}` blocks.
    pub fn marks_answers(&self) -> bool {
        matches!(self, Template::Jinja(source) if rewrite::marks_answers(source))
    }

    /// The conversation `talk` as it stands, with what the template marks as said by the model.
    ///
    /// # Errors
    /// Those of [`Template::render`].
    pub fn marked(
        &self,
        talk: Talk<'_>,
        around: (&str, &str),
        clock: Option<Clock>,
    ) -> Result<Written, String> {
        let Template::Jinja(source) = self else {
            return Ok(Written { text: self.write(talk, around, clock, false)?, said: Vec::new() });
        };
        let marked = jinja::render(source, talk, around, clock, Form::Marked).map_err(|e| describe(&e))?;
        let (mut written, mut begins) = (Written::default(), Vec::new());
        for c in marked.chars() {
            match rewrite::MARKS.iter().position(|mark| *mark == c) {
                None => written.text.push(c),
                Some(0) => begins.push(written.text.len()),
                Some(_) => {
                    let unbegun =
                        "the model's chat template: marks what the model says in blocks that are not whole";
                    written.said.push(begins.pop().ok_or(unbegun)?..written.text.len());
                }
            }
        }
        Ok(written)
    }

    /// The text with which a model begins the user's next turn, which ends its answer.
    pub fn stops(&self) -> &'static [&'static str] {
        match self {
            Template::Plain => &["\nUser:", "\nSystem:"],
            Template::Tags => &["<|user|>", "<|system|>", "<|assistant|>", "<|end|>"],
            Template::Jinja(_) => &[],
        }
    }

    /// Its name for the user.
    pub fn name(&self) -> &'static str {
        match self {
            Template::Plain => "plain",
            Template::Tags => "tags",
            Template::Jinja(_) => "model",
        }
    }
}

fn values(messages: &[Message]) -> Vec<Value> {
    messages.iter().map(|m| json!({ "role": m.role, "content": m.content })).collect()
}

/// The role and the text of a message.
fn turn(message: &Value) -> (&str, &str) {
    let part = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
    (part("role"), part("content"))
}

fn plain(messages: &[Value]) -> String {
    let turn = |(role, content): (&str, &str)| match role {
        "user" => format!("User: {content}\n"),
        "assistant" => format!("Assistant: {content}\n"),
        _ => format!("{content}\n\n"),
    };
    messages.iter().map(self::turn).map(turn).collect()
}

fn tags(messages: &[Value], eos: &str) -> String {
    messages.iter().map(turn).map(|(role, content)| format!("<|{role}|>\n{content}{eos}\n")).collect()
}

fn describe(error: &JinjaError) -> String {
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    format!("the model's chat template: {detail}{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk() -> Vec<Message> {
        vec![
            Message::new("system", "Be brief."),
            Message::new("user", "Hi"),
            Message::new("assistant", "Hello"),
            Message::new("user", "Bye"),
        ]
    }

    #[test]
    fn turns_are_written_as_each_template_has_them() {
        let write = |template: Template| template.render(&talk(), ("<s>", "</s>"), None);
        assert_eq!(
            write(Template::Plain).unwrap(),
            "Be brief.\n\nUser: Hi\nAssistant: Hello\nUser: Bye\nAssistant:"
        );
        assert_eq!(
            write(Template::Tags).unwrap(),
            "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello</s>\n<|user|>\nBye</s>\n<|assistant|>\n"
        );
    }

    #[test]
    fn a_finished_conversation_asks_for_nothing() {
        let jinja = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
        for template in [Template::Plain, Template::Tags, Template::Jinja(jinja.into())] {
            let asks = template.render(&talk()[..2], ("<s>", "</s>"), None).unwrap();
            let finished = template.finished(&talk()[..3], ("<s>", "</s>"), None).unwrap();
            assert!(finished.starts_with(&asks) && finished[asks.len()..].contains("Hello"), "{finished}");
            assert!(asks.len() > template.finished(&talk()[..2], ("<s>", "</s>"), None).unwrap().len());
        }
    }

    /// The constructs that real templates use; the expected output is that of Jinja2 with transformers' settings.
    #[test]
    fn jinja_templates_are_rendered_as_by_jinja2() {
        let template = "{{ bos_token }}{%- set ns = namespace(first=true) %}\n\
            {% for message in messages %}\n    \
            {% if message['role'] == 'system' and loop.first %}\n\
            [{{ message.content.strip() | upper }}]\n    \
            {% elif message.role == 'user' %}\n\
            <|im_start|>{{ message.role }}{{ '\\n' + message['content'].split()[0] | trim }}{{ eos_token }}\n    \
            {% else %}\n\
            {{ message.content.replace('l', 'L') }}{% if ns.first %}{% set ns.first = false %}!{% endif %}\n    \
            {% endif %}\n\
            {% endfor %}\n\
            {{ messages[1:] | length }}{{ messages[-1] | tojson }}{% if add_generation_prompt %}<go>{% endif %}\n\
            {% if tools is defined and tools %}tools{% endif %}{{ missing }}";
        let text = Template::Jinja(template.into()).render(&talk(), ("<s>", "</s>"), None).unwrap();
        assert_eq!(text, JINJA2);
    }

    const JINJA2: &str = "<s>[BE BRIEF.]\n<|im_start|>user\nHi</s>\nHeLLo!<|im_start|>user\nBye</s>\n3{\"role\": \"user\", \"content\": \"Bye\"}<go>";

    #[test]
    fn json_is_not_escaped_for_html() {
        let talk = [Message::new("user", "<a href='x'> & \\u003c \\\\")];
        let text = Template::Jinja("{{ messages[0]['content'] | tojson(ensure_ascii=False) }}".into());
        assert_eq!(text.render(&talk, ("", ""), None).unwrap(), r#""<a href='x'> & \\u003c \\\\""#);
    }

    #[test]
    fn what_a_template_refuses_or_cannot_do_is_reported() {
        let describe =
            |source: &str| Template::Jinja(source.into()).render(&talk(), ("", ""), None).unwrap_err();
        assert!(describe("{{ raise_exception('no system turn') }}").contains("no system turn"));
        assert!(describe("{% for %}").contains("line 1"));
        assert!(
            describe("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}")
                .contains("template")
        );
        assert!(describe(&" ".repeat(jinja::LONGEST + 1)).contains("too many"));
    }
}
