//! Conversations, prompts and responses: the tokens and the mask that transformers gives for the whole text, and what no
//! template of its marks.

use crate::data::in_order;

use ckpt_kit::peers;
use ckpt_train::data::{Settings, Stream};
use serde_json::{Value, json};

/// Tokens of the document in `file` of `settings`, each with whether it is learnt; the first is not.
fn document(settings: &Settings, tokens: usize) -> Vec<(i64, bool)> {
    let settings = settings.clone().with(|s| s.length = tokens - 1);
    let batch = Stream::new(&settings, 0).unwrap().batch().unwrap();
    let all = batch.ids.iter().map(|id| i64::from(*id)).chain([-1]);
    let learnt = [false].into_iter().chain(batch.targets.iter().map(|target| *target >= 0));
    let last = batch.targets.last().copied().unwrap_or(-1);
    all.zip(learnt).map(|(id, learnt)| (if id == -1 { last.into() } else { id }, learnt)).collect()
}

#[test]
fn tokens_and_masks_are_those_of_transformers() {
    let Some(python) = peers::python(&["transformers", "tokenizers", "jinja2"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let cases = python.script("train", "conversations.py", &[folder.path()]);
    let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
    assert!(cases.len() > 1200, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let line = format!("{}\n", case["line"]);
        let settings = in_order(folder.path(), "line.jsonl", line.as_bytes(), 4)
            .with(|s| s.tokenizer = Some(case["tokenizer"].as_str().unwrap().into()));
        let ids = case["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap());
        let mask = case["mask"].as_array().unwrap().iter().map(|learnt| *learnt == 1);
        let mut wanted: Vec<(i64, bool)> = ids.zip(mask).collect();
        // Nothing predicts the first.
        wanted[0].1 = false;
        let got = document(&settings, wanted.len());
        if got != wanted {
            wrong.push(format!("{}\n  {wanted:?}\n  {got:?}", case["name"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// `settings` of lines with the tokenizer of the tests, which has a token for each byte, and a template.
fn with_template(folder: &std::path::Path, lines: &str, template: &str) -> Settings {
    let config = json!({ "chat_template": template, "eos_token": "</s>" }).to_string();
    std::fs::write(folder.join("tokenizer_config.json"), config).unwrap();
    in_order(folder, "a.jsonl", lines.as_bytes(), 4)
}

/// What of a document is learnt, and the rest in brackets.
fn shown(settings: &Settings, tokens: usize) -> String {
    let mut text = String::new();
    for part in document(settings, tokens).chunk_by(|a, b| a.1 == b.1) {
        let part_text: String =
            part.iter().map(|(id, _)| if *id == 256 { '$' } else { *id as u8 as char }).collect();
        text += &if part[0].1 { part_text } else { format!("[{part_text}]") };
    }
    text
}

/// A template that ends a text where it ends is one text with all answers.
#[test]
fn the_end_of_a_text_that_does_not_go_on_is_no_other_writing() {
    let folder = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}({{ m.role[0] }}:{{ m.content }}){% endfor %}{% if add_generation_prompt %}(a:{% else %}{{ eos_token }}{% endif %}";
    let turns = ["q", "w", "e", "r"].iter().enumerate();
    let turns: Vec<Value> =
        turns.map(|(n, text)| json!({ "role": (["user", "assistant"][n % 2]), "content": text })).collect();
    let line = format!("{}\n", json!({ "messages": turns }));
    let settings = with_template(folder.path(), &line, template);
    assert_eq!(shown(&settings, 21), "[(u:q)(a:]w)[(u:e)(a:]r)$");
}

#[test]
fn lines_that_a_template_cannot_write_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let user = json!({ "role": "user", "content": "q" });
    let call = json!([{ "function": { "name": "f", "arguments": {} } }]);
    let lines = [
        (json!({ "messages": [user, { "role": "assistant", "content": null }] }), "without content"),
        (json!({ "messages": [user, { "content": "a" }] }), "without a role"),
        (
            json!({ "messages": [user, { "role": "assistant", "content": [{ "type": "image" }] }] }),
            "not text",
        ),
        (
            json!({ "messages": [user, { "role": "assistant", "tool_calls": call }] }),
            "`tool_calls`, which the template `plain`",
        ),
        (
            json!({ "messages": [user, { "role": "assistant", "content": "a" }], "tools": call }),
            "`tools`, which the template `plain`",
        ),
        (json!({ "messages": [user] }), "no message of the assistant"),
    ];
    let text: String = lines.iter().map(|(line, _)| format!("{line}\n")).collect();
    let settings = in_order(folder.path(), "a.jsonl", (text + "{\"text\": \"abcdef\"}\n").as_bytes(), 4);
    for (at, (_, why)) in lines.iter().enumerate().take(5) {
        let mut stream = Stream::new(&settings, 0).unwrap();
        stream.batch().unwrap();
        let shown = stream.take_shown();
        assert!(
            shown[at].contains(&format!("line {} ", at + 1)) && shown[at].contains(why),
            "{why}: {shown:?}"
        );
    }
    // A list of texts is one text for a template that takes no lists.
    let parts = json!([{ "type": "text", "text": "ab" }, { "type": "text", "text": "cd" }]);
    let line = json!({ "messages": [user, { "role": "assistant", "content": parts }], "tools": null });
    let settings = in_order(folder.path(), "b.jsonl", format!("{line}\n").as_bytes(), 4);
    assert_eq!(shown(&settings, 25), "[User: q\nAssistant:] abcd\n$");
}

/// Where each token of a text is, by tokenizers of every kind.
#[test]
fn tokens_are_of_the_bytes_that_they_were_made_of() {
    let folder = ckpt_kit::fixtures::root().join("infer/tests/data");
    let mut paths = Vec::new();
    for name in ["sentencepiece", "vocab"] {
        let entries = std::fs::read_dir(folder.join(name)).unwrap();
        paths.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let text = "<s>def add(a, b):\n    return a + b  naïve 日本語 🙂\n</s> x";
    let mut read = 0;
    for path in paths {
        let Ok(tokenizer) = ckpt_infer::Tokenizer::open(&path) else { continue };
        let Ok(ids) = tokenizer.encode(text, ckpt_infer::Specials::Parsed) else { continue };
        let placed = tokenizer.place(text, ckpt_infer::Specials::Parsed).unwrap();
        assert_eq!(placed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids, "{}", path.display());
        assert!(
            placed.windows(2).all(|pair| pair[0].1.start <= pair[1].1.start),
            "{}: {placed:?}",
            path.display()
        );
        // Only spaces may be of no token.
        for (at, c) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
            let of = placed.iter().filter(|(_, of)| of.contains(&at)).count();
            assert!(of > 0, "{}: {c} at {at} of {placed:?}", path.display());
        }
        read += 1;
    }
    assert!(read > 1, "{read}");
}
