//! The files next to a tokenizer that say which of its tokens have a role: tokenizer_config.json,
//! special_tokens_map.json, config.json, generation_config.json, added_tokens.json, chat_template.jinja and
//! `additional_chat_templates`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{
    CHAT_TEMPLATE, CHAT_TEMPLATES, ROLE_KEYS, Role, Token, TokenType, Vocabulary, Warning, read_file,
};
use crate::bytes::stored::Stored;
use crate::{Error, Result};

/// Files beside a tokenizer's own that say more of it.
pub const BESIDE: [&str; 5] =
    [TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS, GENERATION_CONFIG, MAIN_TEMPLATE];
/// A folder beside them, of further chat templates.
pub const TEMPLATES_FOLDER: &str = "additional_chat_templates";

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const MAIN_TEMPLATE: &str = "chat_template.jinja";

/// The files in `folder` that say more of its tokenizer, by their names there, such as
/// `additional_chat_templates/tool_use.jinja`.
pub fn files_beside(folder: &Path) -> Vec<String> {
    let is_there = |name: &&str| folder.join(name).is_stored_file();
    let own = BESIDE.into_iter().filter(is_there).map(str::to_string);
    own.chain(template_names(folder).map(|name| template_file(&name))).collect()
}

/// The names of the further chat templates in `folder`.
fn template_names(folder: &Path) -> impl Iterator<Item = String> {
    let folder = folder.join(TEMPLATES_FOLDER);
    let mut paths: Vec<PathBuf> =
        folder.stored_entries().into_iter().flatten().map(|entry| entry.path).collect();
    paths.sort();
    paths.into_iter().filter(|path| path.is_stored_file()).filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(TEMPLATE)?;
        (!name.is_empty()).then(|| name.to_string())
    })
}

/// How files of templates end.
const TEMPLATE: &str = ".jinja";

/// Where the further template called `name` is.
fn template_file(name: &str) -> String {
    format!("{TEMPLATES_FOLDER}/{name}{TEMPLATE}")
}

/// What those files hold; null where one is missing.
pub(super) struct Beside {
    tokenizer_config: Json,
    special_tokens: Json,
    config: Json,
    generation: Json,
    added: Json,
    template: Option<String>,
    /// Further ones, by name.
    templates: BTreeMap<String, String>,
}

/// A token that a file adds to the vocabulary.
pub(super) struct Added {
    pub id: u64,
    pub text: String,
    pub special: bool,
    /// Whether it takes the spaces beside it, or stands only between words.
    pub strips: bool,
}

impl Beside {
    /// Reads them from `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = |name: &str| -> Result<Option<Vec<u8>>> {
            let path = folder.join(name);
            if path.is_stored_file() { read_file(&path).map(Some) } else { Ok(None) }
        };
        let json = |name: &str| -> Result<Json> {
            let Some(bytes) = file(name)? else { return Ok(Json::Null) };
            serde_json::from_slice(&bytes)
                .map_err(|e| Error::damaged(format!("is not valid JSON: {e}")).in_file(&folder.join(name)))
        };
        let template = |name: &str| -> Result<Option<String>> {
            Ok(file(name)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let mut templates = BTreeMap::new();
        for name in template_names(folder) {
            if let Some(text) = template(&template_file(&name))? {
                templates.insert(name, text);
            }
        }
        Ok(Beside {
            tokenizer_config: json(TOKENIZER_CONFIG)?,
            special_tokens: json(SPECIAL_TOKENS)?,
            config: json("config.json")?,
            generation: json(GENERATION_CONFIG)?,
            added: json(ADDED_TOKENS)?,
            template: template(MAIN_TEMPLATE)?,
            templates,
        })
    }

    /// The text of the token with a role.
    fn text(&self, role: &str) -> Option<&str> {
        let key = format!("{role}_token");
        [&self.tokenizer_config, &self.special_tokens].into_iter().find_map(|file| {
            let entry = file.get(&key)?;
            entry.as_str().or_else(|| entry.get("content")?.as_str())
        })
    }

    /// Whether these files say that no token has a role: by a null, and nothing else.
    fn says_none(&self, role: &str) -> bool {
        let key = format!("{role}_token");
        let is_null = |file: &Json| file.get(&key).is_some_and(Json::is_null);
        let nulls = [&self.tokenizer_config, &self.special_tokens].into_iter().any(is_null);
        nulls && self.text(role).is_none() && self.ids(role).next().is_none()
    }

    /// The ids of the tokens with a role, those of config.json first.
    fn ids(&self, role: &str) -> impl Iterator<Item = u64> {
        let key = format!("{role}_token_id");
        let entries = [&self.config, &self.generation].into_iter().filter_map(move |file| file.get(&key));
        let ids = |entry: &Json| match entry {
            Json::Array(ids) => ids.iter().filter_map(Json::as_u64).collect(),
            one => one.as_u64().into_iter().collect::<Vec<_>>(),
        };
        entries.flat_map(ids).collect::<Vec<_>>().into_iter()
    }

    /// Every id that ends a text.
    pub fn ends(&self) -> Vec<u32> {
        self.ids("eos").filter_map(|id| u32::try_from(id).ok()).collect()
    }

    /// A switch of tokenizer_config.json.
    pub fn switch(&self, key: &str) -> Option<bool> {
        self.tokenizer_config.get(key)?.as_bool()
    }

    /// Tokens that added_tokens.json and tokenizer_config.json add to those of a tokenizer.model.
    pub fn added(&self) -> Vec<Added> {
        let plain = self.added.as_object().into_iter().flatten();
        let plain = plain.filter_map(|(text, id)| {
            Some(Added { id: id.as_u64()?, text: text.clone(), special: false, strips: false })
        });
        let listed = self.tokenizer_config.get("added_tokens_decoder").and_then(Json::as_object);
        let listed = listed.into_iter().flatten().filter_map(|(id, token)| {
            let is = |key: &str| token.get(key).and_then(Json::as_bool).unwrap_or(false);
            let (special, strips) = (is("special"), ["lstrip", "rstrip", "single_word"].into_iter().any(is));
            let text = token.get("content")?.as_str()?.to_string();
            Some(Added { id: id.parse().ok()?, text, special, strips })
        });
        plain.chain(listed).collect()
    }

    /// Gives roles to the tokens of `vocabulary`: as these files say, else as its `own` file does, else to those with a
    /// usual text, with a warning.
    pub fn settle(&self, vocabulary: &mut Vocabulary, own: &[(Role, Option<u64>)]) {
        const USUAL: [(Role, &[&str]); 4] = [
            (Role::Bos, &["<s>", "<|begin_of_text|>", "<bos>", "[BOS]", "<|startoftext|>", "<|endoftext|>"]),
            (Role::Eos, &["</s>", "<|end_of_text|>", "<eos>", "[EOS]", "<|endoftext|>", "<|im_end|>"]),
            (Role::Unk, &["<unk>", "[UNK]"]),
            (Role::Pad, &["<pad>", "[PAD]", "<|pad|>"]),
        ];
        let find = |vocabulary: &Vocabulary, text: &str| {
            let listed = vocabulary.tokens.iter().position(|t| {
                t.text == text.as_bytes() && !matches!(t.kind, TokenType::Normal | TokenType::Byte)
            });
            let listed = listed.or_else(|| vocabulary.tokens.iter().position(|t| t.text == text.as_bytes()));
            listed.map(|id| id as u64)
        };
        for (role, name, _) in ROLE_KEYS {
            let id =
                self.text(name).and_then(|text| find(vocabulary, text)).or_else(|| self.ids(name).next());
            vocabulary.give(role, id);
            if let Some(add) = self.switch(&format!("add_{name}_token")) {
                vocabulary.add(name, add);
            }
        }
        let none = ROLE_KEYS.iter().filter(|(_, name, _)| self.says_none(name)).map(|(role, ..)| *role);
        vocabulary.none = none.filter(|role| vocabulary.role(*role).is_none()).collect();
        if vocabulary.none.contains(&Role::Bos) {
            vocabulary.add("bos", false);
        }
        // What a tokenizer does with text that it does not know is its own.
        let is_own = |role: Role| role == Role::Unk || !vocabulary.none.contains(&role);
        let own: Vec<(Role, Option<u64>)> = own.iter().copied().filter(|(role, _)| is_own(*role)).collect();
        own.into_iter().for_each(|(role, id)| vocabulary.give(role, id));
        vocabulary.ends = self.ends();
        let mut guessed = Vec::new();
        // What no token stands for yet ends a text all the same, so none is guessed.
        let ends = vocabulary.ends_without_token();
        for (role, texts) in USUAL.into_iter().filter(|(role, _)| *role != Role::Eos || !ends) {
            let special = |id: &u64| {
                let kind = vocabulary.tokens[*id as usize].kind;
                matches!(kind, TokenType::Control | TokenType::Unknown | TokenType::UserDefined)
            };
            let found = texts.iter().find_map(|text| find(vocabulary, text).filter(special));
            let found = found.filter(|_| !vocabulary.none.contains(&role));
            if let (Some(id), None) = (found, vocabulary.role(role)) {
                let Token { text, .. } = &vocabulary.tokens[id as usize];
                guessed.push((role, String::from_utf8_lossy(text).into_owned()));
                vocabulary.give(role, Some(id));
            }
        }
        vocabulary.settle_ends();
        if !guessed.is_empty() {
            vocabulary.warnings.push(Warning::GuessedRoles(guessed));
        }
        for role in [Role::Bos, Role::Eos] {
            let is_told = role == Role::Bos && vocabulary.none.contains(&role);
            if vocabulary.role(role).is_none() && !is_told {
                vocabulary.warnings.push(Warning::NoRole(role));
            }
        }
        if let Some(template) = self.chat_template() {
            vocabulary.keys.set(CHAT_TEMPLATE, template);
        }
        let others = self.other_templates();
        for (name, template) in &others {
            vocabulary.keys.set(&format!("{CHAT_TEMPLATE}.{name}"), *template);
        }
        if !others.is_empty() {
            vocabulary.keys.set_array(CHAT_TEMPLATES, others.keys().map(String::as_str));
        }
    }

    fn chat_template(&self) -> Option<&str> {
        let own = self.tokenizer_config.get("chat_template");
        let by_name = || {
            let named = |wanted: &str| {
                own?.as_array()?.iter().find(|t| t.get("name").and_then(Json::as_str) == Some(wanted))
            };
            named("default")?.get("template")?.as_str()
        };
        self.template.as_deref().or_else(|| own?.as_str()).or_else(by_name)
    }

    /// Those for other uses, such as `tool_use`, under the names that gguf-py gives them: of letters and digits.
    fn other_templates(&self) -> BTreeMap<String, &str> {
        let listed = self.tokenizer_config.get("chat_template").and_then(Json::as_array);
        let listed = listed.into_iter().flatten().filter_map(|t| {
            Some((t.get("name")?.as_str()?, t.get("template")?.as_str()?))
                .filter(|(name, _)| *name != "default")
        });
        let files = self.templates.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        listed.chain(files).map(|(name, text)| (name.chars().map(plain).collect(), text)).collect()
    }
}
