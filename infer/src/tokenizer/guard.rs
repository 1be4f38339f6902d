//! The border to the `tokenizers` crate, which panics on some files whose parts contradict each other.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread, now, is caught and becomes an error: a program's panic hook need not tell of it.
pub fn panic_is_caught() -> bool {
    GUARDED.get()
}

/// Runs `work` of the crate, turning its panics into errors.
pub(super) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    match result {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => {
            Err("its parts contradict each other, and the tokenizers library cannot work with them".into())
        }
    }
}

/// What in a tokenizer.json contradicts something else in it, as far as the crate does not look: nothing is said of files
/// that it refuses itself.
pub(super) fn contradiction(file: &Value) -> Option<String> {
    let list =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut steps: Vec<&Value> = ["post_processor", "pre_tokenizer", "normalizer", "decoder"]
        .iter()
        .filter_map(|component| file.get(component))
        .collect();
    while let Some(step) = steps.pop() {
        for key in ["processors", "pretokenizers", "normalizers", "decoders"] {
            steps.extend(step.get(key).and_then(Value::as_array).into_iter().flatten());
        }
        match step.get("type").and_then(Value::as_str) {
            Some("TemplateProcessing") => {
                let described = |id: &str| step.get("special_tokens").and_then(|all| all.get(id)).is_some();
                let used = [list(step, "single"), list(step, "pair")].concat();
                let mut used = used.iter().filter_map(|part| part.get("SpecialToken")?.get("id")?.as_str());
                if let Some(id) = used.find(|id| !described(id)) {
                    let id = id.escape_debug();
                    return Some(format!(
                        "its post-processor puts the token `{id}` around text and does not describe it"
                    ));
                }
            }
            Some("FixedLength") if step.get("length").and_then(Value::as_u64) == Some(0) => {
                return Some("its pre-tokenizer cuts text into pieces of no length".into());
            }
            _ => {}
        }
    }
    let model = file.get("model")?;
    let prefix = model.get("continuing_subword_prefix").and_then(Value::as_str).unwrap_or_default();
    let second = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(_, second)| second.to_string()),
        pair => pair.get(1).and_then(Value::as_str).map(str::to_string),
    };
    let merges = model.get("merges").and_then(Value::as_array).into_iter().flatten();
    let stray = merges.filter_map(second).find(|second| !second.starts_with(prefix))?;
    Some(format!(
        "its merges join `{}`, which does not begin with `{}` as the continuation of a word should",
        stray.escape_debug(),
        prefix.escape_debug()
    ))
}
