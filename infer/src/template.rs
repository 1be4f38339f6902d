//! How a conversation is formatted for a model: plain turns, `<|user|>` turns, or the model's own Jinja template.

mod filters;
mod jinja;
mod macros;
mod methods;
mod numbers;
mod python;
mod rewrite;

use minijinja::Error as JinjaError;

use crate::tokenizer::Tokenizer;

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
        match self {
            Template::Plain => Ok(plain(messages) + "Assistant:"),
            Template::Tags => Ok(tags(messages, around.1) + "<|assistant|>\n"),
            Template::Jinja(source) => {
                jinja::render(source, messages, around, clock, true).map_err(|e| describe(&e))
            }
        }
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
        match self {
            Template::Plain => Ok(plain(messages)),
            Template::Tags => Ok(tags(messages, around.1)),
            Template::Jinja(source) => {
                jinja::render(source, messages, around, clock, false).map_err(|e| describe(&e))
            }
        }
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

fn plain(messages: &[Message]) -> String {
    let turn = |message: &Message| match message.role.as_str() {
        "user" => format!("User: {}\n", message.content),
        "assistant" => format!("Assistant: {}\n", message.content),
        _ => format!("{}\n\n", message.content),
    };
    messages.iter().map(turn).collect()
}

fn tags(messages: &[Message], eos: &str) -> String {
    let turn = |message: &Message| format!("<|{}|>\n{}{eos}\n", message.role, message.content);
    messages.iter().map(turn).collect()
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
