//! The forms that a record of JSONL or Parquet may have.

use std::borrow::Cow;

use serde_json::{Value, json};

/// Fields of a record that are read, besides the text column of the settings.
pub(super) const FIELDS: [&str; 10] = [
    "text",
    "content",
    "prompt",
    "response",
    "responses",
    "completion",
    "messages",
    "conversations",
    "system",
    "tools",
];

/// What a record is.
#[derive(Debug, PartialEq)]
pub(super) enum Record<'v> {
    /// A conversation, of which the assistant's messages from the one at `learnt` on are learnt.
    Conversation { messages: Cow<'v, [Value]>, learnt: usize },
    /// A prompt, and what may follow it.
    Answers { prompt: &'v str, responses: Vec<&'v str> },
    /// One text.
    Text(&'v str),
}

impl<'v> Record<'v> {
    /// The record `value`: `messages`, or `conversations` in ShareGPT's form; `prompt` with `response`, several `responses` or
    /// `completion`, the first and last of which may be lists of messages, as TRL has them; `text` or `content`.
    ///
    /// # Errors
    /// Why it is none of them.
    pub fn of(value: &'v Value) -> Result<Self, String> {
        let field = |name: &str| value.get(name).and_then(Value::as_str);
        let list = |name: &str| value.get(name).and_then(Value::as_array);
        if let Some(messages) = list("messages") {
            return Ok(Record::Conversation { messages: messages.into(), learnt: 0 });
        }
        if let Some(turns) = list("conversations") {
            let system = field("system").filter(|text| !text.is_empty());
            let system = system.map(|text| Ok(json!({ "role": "system", "content": text })));
            let messages = system.into_iter().chain(turns.iter().map(turn)).collect::<Result<Vec<_>, _>>()?;
            return Ok(Record::Conversation { messages: messages.into(), learnt: 0 });
        }
        if let (Some(prompt), Some(completion)) = (list("prompt"), list("completion")) {
            let messages = [prompt.as_slice(), completion].concat();
            return Ok(Record::Conversation { messages: messages.into(), learnt: prompt.len() });
        }
        let responses: Vec<&str> = match (value.get("responses"), field("response").or(field("completion"))) {
            (Some(Value::Array(all)), _) => all.iter().filter_map(response).collect(),
            (Some(Value::Object(all)), _) => all.values().filter_map(response).collect(),
            (_, Some(one)) => vec![one],
            _ => Vec::new(),
        };
        if let (Some(prompt), false) = (field("prompt"), responses.is_empty()) {
            return Ok(Record::Answers { prompt, responses });
        }
        let text = field("text").or(field("content")).map(Record::Text);
        text.ok_or_else(|| {
            "has none of text, content, messages, conversations, or prompt with response, responses or completion"
                .into()
        })
    }
}

/// A turn of ShareGPT's form (`from` and `value`) as a message; one that is a message already stays.
fn turn(turn: &Value) -> Result<Value, String> {
    let Some(from) = turn.get("from").and_then(Value::as_str) else { return Ok(turn.clone()) };
    let role = match from {
        "human" | "user" => "user",
        "gpt" | "assistant" => "assistant",
        "system" => "system",
        "tool" => "tool",
        other => {
            return Err(format!(
                "has a turn from `{}`, which is none of human, gpt, system and tool",
                other.escape_debug()
            ));
        }
    };
    let content = turn.get("value").cloned().unwrap_or(Value::Null);
    Ok(json!({ "role": role, "content": content }))
}

/// A teacher's answer: text, or an object that holds it.
fn response(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("response").or_else(|| value.get("text"))?.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_known_by_its_fields() {
        let user = json!({ "role": "user", "content": "a" });
        let answer = json!({ "role": "assistant", "content": "b" });
        let both = vec![user.clone(), answer.clone()];
        let learnt_from = |value: Value, messages: &[Value], from: usize| match Record::of(&value) {
            Ok(Record::Conversation { messages: found, learnt }) => {
                assert_eq!((&*found, learnt), (messages, from), "{value}");
            }
            other => panic!("{value}: {other:?}"),
        };
        learnt_from(json!({ "messages": both, "text": "c" }), &both, 0);
        let turns = json!([{ "from": "human", "value": "a" }, { "from": "gpt", "value": "b" }]);
        learnt_from(json!({ "conversations": turns }), &both, 0);
        learnt_from(json!({ "conversations": both }), &both, 0);
        let system = json!({ "role": "system", "content": "s" });
        let whole = [vec![system], both.clone()].concat();
        learnt_from(json!({ "conversations": turns, "system": "s" }), &whole, 0);
        learnt_from(json!({ "prompt": [user], "completion": [answer] }), &both, 1);
        for (field, text) in
            [("response", json!("b")), ("completion", json!("b")), ("responses", json!(["b"]))]
        {
            let value = json!({ "prompt": "a", field: text });
            assert_eq!(
                Record::of(&value),
                Ok(Record::Answers { prompt: "a", responses: vec!["b"] }),
                "{field}"
            );
        }
        assert_eq!(Record::of(&json!({ "content": "a" })), Ok(Record::Text("a")));
        for (value, word) in [
            (json!({ "conversations": [{ "from": "narrator", "value": "a" }] }), "narrator"),
            (json!({ "prompt": "a" }), "completion"),
            (json!([]), "none of text"),
        ] {
            let why = Record::of(&value).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }
}
