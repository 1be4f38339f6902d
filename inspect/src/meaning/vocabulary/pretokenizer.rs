//! llama.cpp knows pre-tokenizers by name. Its own converter identifies them by the hash of a tokenizer's output for a
//! test text; here they are recognised by what tokenizer.json says they do, which is the same for every vocabulary
//! trained with one.
//!
//! The other way, a GGUF file's name gives the patterns that its text is split by.
//!
//! The patterns are those of tokenizer.json files, which `llm_tokenizer_bpe` of llama.cpp notes next to its own.

use serde_json::Value as Json;

use super::Warning;
use super::json::{kind, steps};

/// One step of a pre-tokenizer.
#[derive(Debug, PartialEq)]
enum Step<'j> {
    /// Splits by a pattern.
    Split(&'j str),
    /// GPT-2's pattern, which the byte-level step brings along.
    Gpt2,
    /// Every digit on its own.
    Digits,
    /// Runs of digits.
    DigitRuns,
    /// Punctuation, contiguous.
    Punctuation,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const LINES: &str = "[\r\n]";
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_PUNCTUATION: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const DEEPSEEK_CJK: &str = "[一-龥ࠀ-一가-\u{d7ff}]+";
const CODER_LETTERS: &str = r"\s?\p{L}+";
const CODER_PUNCTUATION: &str = r"\s?\p{P}+";
const TRAILING: &str = r"\s+$";
/// GPT-2's pattern, where it is written out.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const DIGIT: &str = r"\p{N}";
const DIGITS3: &str = r"\p{N}{1,3}";
const CJK: &str = "[一-龥぀-ゟ゠-ヿ]+";
const ASCII3: &str = r"[0-9][0-9][0-9]";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

/// How byte-level text is split before it is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PreTokenizer {
    /// Each splits what the ones before it left into what it matches and what lies between.
    pub patterns: &'static [&'static str],
    /// Whether a piece that is a token is taken whole, without applying merges.
    pub whole_words: bool,
    /// Whether texts begin with a token of their own unless the file says otherwise.
    pub begins: bool,
}

/// Names of pre-tokenizers with which llama.cpp puts the first token before text unless the file says otherwise.
const WITH_BOS: [&str; 10] = [
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
    "tekken",
];

/// Whether the tokenizers with the pre-tokenizer `name` bring text into Unicode's form NFC first.
pub(super) fn composes(name: &str) -> bool {
    matches!(name, "qwen2" | "qwen35")
}

/// What llama.cpp's name (`tokenizer.ggml.pre`) stands for, as `llama_vocab::impl::load` has it; `None` for a name that
/// is not known here.
pub fn pre_tokenizer(name: &str) -> Option<PreTokenizer> {
    let (patterns, whole_words): (&[&str], bool) = match name {
        "default" => (&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", ASCII3], false),
        "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "gigachat" | "jina-v2-es" | "jina-v2-de" | "a.x-4.0"
        | "mellum" | "modern-bert" | "jina-v1-en" | "jina-v2-code" | "roberta-bpe" | "mpt" | "olmo"
        | "jais" | "trillion" | "granite-docling" | "exaone4" => (&[GPT2], false),
        "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b"
        | "mellum2" => (&[DIGIT, GPT2], false),
        "falcon" => (&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, ASCII3], false),
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
        | "jina-v5-nano" | "glm4" | "glm5" => (&[LLAMA3], true),
        "smaug-bpe" | "dbrx" | "chatglm-bpe" => (&[LLAMA3], false),
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "stablelm2" | "hunyuan" | "solar-open"
        | "megrez" | "grok-2" => (&[QWEN2], false),
        "qwen35" => (&[QWEN35], false),
        "tekken" => (&[TEKKEN], true),
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => (&[GPT4O], false),
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => (&[DIGITS3, CJK, DEEPSEEK3], false),
        "deepseek-llm" => {
            (&[LINES, DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, TRAILING, DEEPSEEK_CJK, r"\p{N}+"], false)
        }
        "deepseek-coder" => (&[LINES, CODER_LETTERS, CODER_PUNCTUATION, DEEPSEEK_CJK, DIGIT], false),
        "bailingmoe" | "bailingmoe2" | "llada-moe" => (&[BAILING], false),
        "seed-coder" => (&[SEED_CODER], false),
        "poro-chat" | "bloom" | "gpt3-finnish" => (&[BLOOM], false),
        "viking" => (&[BLOOM, DIGIT], false),
        _ => return None,
    };
    Some(PreTokenizer { patterns, whole_words, begins: WITH_BOS.contains(&name) })
}

/// llama.cpp's name for `pre_tokenizer`, and what the user should know. `ignore_merges` says that a word which is a
/// token needs no merges, a part of the pre-tokenizer's name in llama.cpp.
pub(super) fn name(pre_tokenizer: &Json, ignore_merges: Option<bool>) -> (&'static str, Vec<Warning>) {
    let whole_words = ignore_merges.unwrap_or(false);
    let found = listed(pre_tokenizer).and_then(|(steps, prefix)| {
        let name = match steps.as_slice() {
            [Step::Gpt2] | [Step::Split(GPT2)] => ("gpt-2", false),
            [Step::Digits, Step::Gpt2] | [Step::Digits, Step::Split(GPT2)] => ("smollm", false),
            // Runs of digits are their own in vocabularies that were made with them apart.
            [Step::Punctuation, Step::Gpt2, Step::Split(ASCII3)]
            | [Step::Punctuation, Step::Gpt2, Step::DigitRuns, Step::Split(ASCII3)] => ("falcon", false),
            [Step::Split(LLAMA3)] if whole_words => ("llama-bpe", true),
            [Step::Split(LLAMA3)] => ("smaug-bpe", false),
            [Step::Split(QWEN2)] => ("qwen2", false),
            [Step::Split(QWEN35)] => ("qwen35", false),
            [Step::Split(TEKKEN)] => ("tekken", true),
            [Step::Split(GPT4O)] => ("gpt-4o", false),
            [Step::Split(DIGITS3), Step::Split(CJK), Step::Split(DEEPSEEK3)] => ("deepseek-v3", false),
            [Step::Split(BAILING)] => ("bailingmoe", false),
            [
                Step::Split(LINES),
                Step::Split(CODER_LETTERS),
                Step::Split(CODER_PUNCTUATION),
                Step::Split(DEEPSEEK_CJK),
                Step::Digits,
            ] => ("deepseek-coder", false),
            // No merge joins digits that training kept apart.
            [
                Step::Split(LINES),
                Step::Split(DEEPSEEK_LETTERS),
                Step::Split(DEEPSEEK_PUNCTUATION),
                Step::Split(TRAILING),
                Step::Split(DEEPSEEK_CJK),
                Step::Digits | Step::DigitRuns,
            ] => ("deepseek-llm", false),
            _ => return None,
        };
        Some((name, prefix))
    });
    let Some(((name, ignores), prefix)) = found else {
        return ("default", vec![Warning::UnknownPreTokenizer]);
    };
    let mut warnings = Vec::new();
    if ignores != whole_words {
        warnings.push(Warning::WholeWords { here: whole_words, name });
    }
    if prefix {
        warnings.push(Warning::SpaceBeforeText);
    }
    (name, warnings)
}

/// The steps, and whether a space is put before text; `None` where one is not known.
fn listed(pre_tokenizer: &Json) -> Option<(Vec<Step<'_>>, bool)> {
    let (mut found, mut prefix) = (Vec::new(), false);
    for step in steps(pre_tokenizer, "pretokenizers") {
        let flag = |key: &str, default| step.get(key).and_then(Json::as_bool).unwrap_or(default);
        match kind(step) {
            "ByteLevel" => {
                prefix |= flag("add_prefix_space", true);
                if flag("use_regex", true) {
                    found.push(Step::Gpt2);
                }
            }
            "Split" => {
                let pattern = step.get("pattern")?;
                let isolated = step.get("behavior").and_then(Json::as_str) == Some("Isolated");
                let removed_rest =
                    step.get("behavior").and_then(Json::as_str) == Some("Removed") && flag("invert", false);
                let expression = pattern.get("Regex").and_then(Json::as_str)?;
                if !(isolated || removed_rest) {
                    return None;
                }
                found.push(Step::Split(expression));
            }
            "Digits" if flag("individual_digits", false) => found.push(Step::Digits),
            "Digits" => found.push(Step::DigitRuns),
            "Punctuation" => found.push(Step::Punctuation),
            _ => return None,
        }
    }
    Some((found, prefix))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(pre_tokenizer: &Json, ignore_merges: Option<bool>) -> (&'static str, usize) {
        let (name, warnings) = name(pre_tokenizer, ignore_merges);
        (name, warnings.len())
    }

    #[test]
    fn pre_tokenizers_are_recognised_by_what_they_do() {
        let byte_level =
            |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": regex});
        let split = |pattern: &str| {
            let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
            json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
        };
        assert_eq!(named(&byte_level(true), None), ("gpt-2", 0));
        assert_eq!(named(&json!({"type": "ByteLevel"}), None), ("gpt-2", 1), "a space is put before text");
        assert_eq!(named(&split(LLAMA3), Some(true)), ("llama-bpe", 0));
        assert_eq!(named(&split(LLAMA3), Some(false)), ("smaug-bpe", 0));
        assert_eq!(named(&split(QWEN2), Some(false)), ("qwen2", 0));
        assert_eq!(named(&split(QWEN2), Some(true)), ("qwen2", 1));
        assert_eq!(named(&split(GPT4O), None), ("gpt-4o", 0));
        let digits = json!({"type": "Digits", "individual_digits": true});
        let sequence = json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]});
        assert_eq!(named(&sequence, None), ("smollm", 0));
        let split_by =
            |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"});
        let deepseek = |name: &str, patterns: usize| {
            let splits = pre_tokenizer(name).unwrap().patterns[..patterns].iter().map(split_by);
            let digits = json!({"type": "Digits", "individual_digits": true});
            let steps: Vec<Json> = splits.chain([digits, byte_level(false)]).collect();
            json!({"type": "Sequence", "pretokenizers": steps})
        };
        assert_eq!(named(&deepseek("deepseek-llm", 5), None), ("deepseek-llm", 0));
        assert_eq!(named(&deepseek("deepseek-coder", 4), None), ("deepseek-coder", 0));
        assert_eq!(named(&deepseek("deepseek-coder", 3), None), ("default", 1));
        assert_eq!(named(&split(r"\w+"), None), ("default", 1));
        assert_eq!(named(&json!({"type": "Whitespace"}), None), ("default", 1));
        assert_eq!(named(&Json::Null, None), ("default", 1));
        let deep =
            (0..500).fold(byte_level(true), |inner, _| json!({"type": "Sequence", "pretokenizers": [inner]}));
        assert_eq!(named(&deep, None), ("gpt-2", 0));
    }
}
