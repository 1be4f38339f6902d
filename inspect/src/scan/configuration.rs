//! Configurations (JSON and YAML) that name Python code, which a loader imports and calls: `auto_map` of the Hugging Face
//! Hub, `_target_` of Hydra and NeMo, tags of SpeechBrain, expressions of MONAI, layers of Keras, nodes of skops, handlers of
//! TorchServe, loaders of MLflow.

use serde_json::{Map, Value};

use super::calls::cut;
use super::content::{Place, Scanner};
use super::globals::{Class, classify};
use super::interpolated::resolves;
use super::keys::{Code, KEYS};
use super::uses::{JUDGED_BY_ARGUMENTS, loads};
use super::yaml::{self, INCLUDE, Tagged};
use super::{Finding, Rule, Severity, exported, hub, json, keras, loaders, mlflow, monai, zarr};
use crate::Result;
use crate::bytes::{ByteSource, text};

/// Larger ones are searched and not parsed: vocabularies, mostly. Parsed, they take up to a hundred times the memory, and YAML
/// two hundred.
const MOST_PARSED: u64 = 3 << 20;
const MOST_PARSED_YAML: u64 = 1 << 20;

/// Handlers that come with TorchServe.
pub(super) const HANDLERS: [&str; 4] =
    ["image_classifier", "image_segmenter", "object_detector", "text_classifier"];

/// Libraries whose classes their own loaders create by name, with arguments that are data.
const OWN: [&str; 5] = ["sentence_transformers.", "sklearn.", "scipy.", "keras.", "numpy."];

/// How a configuration is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Json,
    Yaml,
    /// A chat template of its own.
    Jinja,
}

/// Whether `name` is that of a configuration.
pub(super) fn names_configuration(name: &str) -> bool {
    Written::by_name(name).is_some()
}

impl Written {
    /// That of the file called `name`, if it is a configuration.
    fn by_name(name: &str) -> Option<Written> {
        if name.rsplit(['/', '\\']).next() == Some(mlflow::FILE) {
            return Some(Written::Yaml);
        }
        if name.rsplit(['/', '\\']).next().is_some_and(|last| zarr::FILES.contains(&last)) {
            return Some(Written::Json);
        }
        let (_, extension) = name.rsplit_once('.')?;
        match extension.to_ascii_lowercase().as_str() {
            "json" => Some(Written::Json),
            "yaml" | "yml" => Some(Written::Yaml),
            "jinja" | "jinja2" | "j2" => Some(Written::Jinja),
            _ => None,
        }
    }
}

/// What `look` finds in an object.
#[cfg(test)]
pub(super) fn named(value: &Value, look: fn(&Map<String, Value>, &mut Vec<Named>)) -> Vec<Named> {
    let mut found = Vec::new();
    look(value.as_object().unwrap(), &mut found);
    found
}

/// What a configuration names.
#[derive(Debug, PartialEq)]
pub(super) enum Named {
    /// A class or function, by a key that loaders follow.
    Code {
        module: String,
        name: String,
        key: String,
    },
    /// The same, by a key that means other things, too: only what is dangerous counts.
    Perhaps {
        module: String,
        name: String,
        key: String,
    },
    /// Python code in the configuration itself, or what does as it says.
    Source(String),
    /// A program elsewhere, which may do anything.
    Beside(String),
    Template(String, String),
}

impl Scanner<'_> {
    /// Whether `name` is that of a configuration; then `data` is scanned as one.
    pub(super) fn is_configuration(
        &mut self,
        data: &dyn ByteSource,
        name: &str,
        place: &Place,
    ) -> Result<bool> {
        let written = Written::by_name(name);
        if let Some(written) = written {
            self.configuration(data, name, written, place)?;
        }
        Ok(written.is_some())
    }

    fn configuration(
        &mut self,
        data: &dyn ByteSource,
        name: &str,
        written: Written,
        place: &Place,
    ) -> Result<()> {
        let most = if written == Written::Yaml { MOST_PARSED_YAML } else { MOST_PARSED };
        if written != Written::Json && data.len() > most {
            return self.large_configuration(data, name, written, place);
        }
        let bytes = data.bytes(0..data.len())?;
        // Some readers guess other encodings.
        if bytes.contains(&0) || std::str::from_utf8(&bytes).is_err() {
            let message = format!("`{}` is not in UTF-8, and was not read", cut(name));
            self.find(Rule::OpaqueContent, place, None, message);
            return Ok(());
        }
        let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
        let mut found = Vec::new();
        let parsed = match written {
            Written::Jinja => {
                self.template(&text(&bytes), name, place);
                return Ok(());
            }
            Written::Json => document(&bytes).map(|value| {
                names(&value, file, &mut found);
                Vec::new()
            }),
            Written::Yaml => yaml::read(&text(&bytes), &mut |value| names(value, file, &mut found)),
        };
        let tags = match parsed {
            Ok(tags) => tags,
            // A loader that cannot parse it does nothing, but it may parse more.
            Err(_) if !mentions(&bytes, written) => return Ok(()),
            Err(why) => {
                let message = format!("`{}` cannot be parsed: {why}", cut(name));
                self.find(Rule::OpaqueContent, place, None, message);
                Vec::new()
            }
        };
        for Tagged { by, what } in tags {
            if by == INCLUDE {
                found.push(Named::Beside(format!("includes the file `{}`", cut(&what))));
                continue;
            }
            let (module, name) = split(&what);
            found.push(Named::Code { module, name, key: by.into() });
        }
        found.into_iter().for_each(|named| self.named(named, name, place));
        Ok(())
    }

    /// Reports what the JSON `bytes`, called `name`, name; `false` if they are none.
    pub(super) fn described(&mut self, bytes: &[u8], name: &str, place: &Place) -> bool {
        let Ok(value) = document(bytes) else { return false };
        let mut found = Vec::new();
        names(&value, name.rsplit(['/', '\\']).next().unwrap_or(name), &mut found);
        found.into_iter().for_each(|named| self.named(named, name, place));
        true
    }

    fn large_configuration(
        &mut self,
        data: &dyn ByteSource,
        name: &str,
        written: Written,
        place: &Place,
    ) -> Result<()> {
        if !mentions(&data.bytes(0..data.len())?, written) {
            return Ok(());
        }
        let message = format!("`{}` has {} bytes, and was not parsed", cut(name), data.len());
        self.find(Rule::OpaqueContent, place, None, message);
        Ok(())
    }

    fn named(&mut self, named: Named, file: &str, place: &Place) {
        let file = cut(file);
        let (module, name, key, sure) = match named {
            Named::Template(key, template) => return self.template(&template, &key, place),
            Named::Source(what) => {
                let message = format!("`{file}` {what}");
                return self.code(Severity::Dangerous, None, message, place);
            }
            Named::Beside(what) => {
                let message = format!("`{file}` {what}");
                return self.code(Severity::Unknown, None, message, place);
            }
            Named::Code { module, name, key } => (module, name, key, true),
            Named::Perhaps { module, name, key } => (module, name, key, false),
        };
        let global = cut(&format!("{module}.{name}"));
        // Hydra calls whatever it finds, through whatever a module imports.
        let by_class = matches!(key.as_str(), "type" | "__class__" | "class_name");
        let own = by_class && OWN.iter().any(|own| module.starts_with(own));
        let harmless = self.is_allowed(&module, &name) || own;
        let (severity, what) = match classify(&module, &name) {
            // What they do depends on what they are given.
            _ if sure && JUDGED_BY_ARGUMENTS.contains(&(&*module, &*name)) => match loads(&module, &name) {
                Some(why) => (Severity::Dangerous, why),
                None => (Severity::Unknown, "what it does depends on its arguments"),
            },
            Class::Dangerous(why) if !self.is_allowed(&module, &name) => (Severity::Dangerous, why),
            Class::Unknown if sure && !harmless => {
                (Severity::Unknown, "some loaders import it and call what it defines")
            }
            _ if sure => return self.harmless(global),
            _ => return,
        };
        let message = format!("`{file}` names {global} as `{key}`: {what}");
        self.code(severity, Some(global), message, place);
    }

    fn code(&mut self, severity: Severity, global: Option<String>, message: String, place: &Place) {
        let member = place.member.clone();
        let finding =
            Finding { rule: Rule::CustomCode, severity, member, offset: None, global, message, count: 1 };
        self.findings.add(finding);
    }
}

/// What the `document` in the file called `file` names.
fn names(document: &Value, file: &str, found: &mut Vec<Named>) {
    walk(document, Above::default(), file, found);
    monai::expressions(document, found);
}

/// The JSON `bytes`, of which only what may name code is kept if they are many.
fn document(bytes: &[u8]) -> std::result::Result<Value, String> {
    match bytes.len() as u64 > MOST_PARSED {
        true => json::parts(bytes, &Code),
        false => json::read(bytes),
    }
}

/// Whether a text under another name has what only configurations that name code have.
pub(super) fn mentions_code(data: &dyn ByteSource) -> Result<bool> {
    for key in ["_target_", "!!python", "tag:yaml.org,2002:python", "${oc.", "${${"] {
        if data.contains(key.as_bytes(), 0..data.len())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the text has one of the keys, or what may spell one.
fn mentions(bytes: &[u8], written: Written) -> bool {
    let has = |key: &str| memchr::memmem::find(bytes, key.as_bytes()).is_some();
    let spelt = match written {
        Written::Yaml => bytes.iter().any(|byte| b"!%\\".contains(byte)),
        _ => has("\\u00"),
    };
    spelt || KEYS.into_iter().any(has)
}

/// `package.module:Name` and `package.module.Name`, split before the name.
pub(super) fn split(path: &str) -> (String, String) {
    let (module, name) = path.split_once(':').or_else(|| path.rsplit_once('.')).unwrap_or((path, ""));
    (module.to_string(), name.to_string())
}

/// Whether `text` is a path of two names or more.
fn is_path(text: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
    text.contains('.') && text.split('.').all(word)
}

/// The keys above a value by which every text below them names code, or is a template.
#[derive(Clone, Copy, Default)]
struct Above<'k> {
    auto_map: bool,
    target: Option<&'k str>,
    library: bool,
    template: Option<&'k str>,
    kernel: Option<&'k str>,
}

impl<'k> Above<'k> {
    fn and(self, key: &'k str) -> Self {
        match key {
            "auto_map" => Above { auto_map: true, ..self },
            "_target_" | "_component_" => Above { target: Some(key), ..self },
            "parent_library" => Above { library: true, ..self },
            // Several by name, as a list of pairs or an object.
            "chat_template" | "chat_templates" => Above { template: Some(key), ..self },
            "attn_implementation" | "_attn_implementation" | "kernel_mapping" => {
                Above { kernel: Some(key), ..self }
            }
            _ => self,
        }
    }

    /// What `text` names because of them.
    fn names(self, text: &str, found: &mut Vec<Named>) {
        if self.auto_map {
            // `owner/repository--module.Class`.
            let (module, name) = split(text.rsplit("--").next().unwrap_or(text));
            found.push(Named::Code { module, name, key: "auto_map".into() });
        }
        if let Some(key) = self.target {
            let (module, name) = split(text);
            found.push(Named::Code { module, name, key: key.into() });
        }
        // It is imported as a module.
        if self.library && text != "transformers" && !text.starts_with("transformers.models.") {
            let (module, name) = (text.to_string(), "*".to_string());
            found.push(Named::Code { module, name, key: "parent_library".into() });
        }
        if let Some(key) = self.template {
            found.push(Named::Template(key.into(), text.to_string()));
        }
        // transformers fetches a kernel of this name from the Hub.
        if let Some(key) = self.kernel
            && text.contains('/')
            && !text.trim_start_matches("paged|").starts_with(hub::KERNELS)
        {
            found.push(Named::Beside(format!("has `{key}` fetch code from the Hub: {}", cut(text))));
        }
    }
}

/// Everything that `value`, which has these keys `above` it, names in the file called `file`.
fn walk(value: &Value, above: Above<'_>, file: &str, found: &mut Vec<Named>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, above, file, found)),
        Value::Object(entries) => {
            object(entries, file, found);
            for (key, value) in entries {
                if let Value::String(text) = value {
                    entry(key, text, entries, above, file, found);
                }
                walk(value, above.and(key), file, found);
            }
        }
        Value::String(text) => {
            above.names(text, found);
            if resolves(text) {
                found.push(Named::Beside(format!("makes a mapping of a text by `{}`", cut(text))));
            }
        }
        _ => {}
    }
}

/// What the `text` names that is the value of `key` among the `entries` of an object.
fn entry(
    key: &str,
    text: &str,
    entries: &Map<String, Value>,
    above: Above<'_>,
    file: &str,
    found: &mut Vec<Named>,
) {
    match key {
        // Lightning calls the first with the hyperparameters; sentence-transformers imports and calls activations, and
        // tokenizers, whose names are paths.
        called if hub::CALLED.contains(&called) && (called == "_instantiator" || text.contains('.')) => {
            found.extend(hub::called(called, text));
        }
        // peft imports it as a module.
        "megatron_core" if text != "megatron.core" => {
            found.push(Named::Code { module: text.to_string(), name: "*".into(), key: key.into() });
        }
        // sentence-transformers' modules.json has these beside each other.
        "type" if text.contains('.') && hub::is_module(entries, file) => {
            let (module, name) = split(text);
            found.push(Named::Code { module, name, key: key.into() });
        }
        // Nodes of exported programs name the operators of their graph.
        "target" if text.starts_with("torch.ops.") || exported::computes(text) => {}
        "target" | "cls" | "class_path" | "type" if is_path(text) => {
            let (module, name) = split(text);
            found.push(Named::Perhaps { module, name, key: key.into() });
        }
        "template" if above.template.is_none() => {
            found.push(Named::Template(key.into(), text.to_string()));
        }
        _ => {}
    }
}

/// What several entries of an object name together.
fn object(entries: &Map<String, Value>, file: &str, found: &mut Vec<Named>) {
    let text = |key: &str| entries.get(key).and_then(Value::as_str);
    let mut code = |module: &str, name: &str, key: &str| {
        let (module, name, key) = (module.to_string(), name.to_string(), key.to_string());
        found.push(Named::Code { module, name, key });
    };
    if let (Some(module), Some(name)) = (text("__module__"), text("__class__")) {
        code(module, name, "__class__");
    }
    if let (Some(module), Some(name)) = (text("module_path"), text("function")) {
        code(module, name, "function");
    }
    if let Some(class) = text("class_name") {
        keras::object(entries, class, found);
    }
    if let (Some(loader), Some(module), Some(class)) =
        (text("__loader__"), text("__module__"), text("__class__"))
    {
        of_skops(entries, loader, (module, class), found);
    }
    mlflow::object(entries, found);
    // TorchServe's manifest, whose model gets a name where it has none.
    const MANIFEST: [&str; 3] = ["modelName", "serializedFile", "modelFile"];
    let manifest = file == "MANIFEST.json" || MANIFEST.iter().any(|key| entries.contains_key(*key));
    for (key, named) in [
        ("handler", "a handler"),
        ("modelFile", "a model's file"),
        ("requirementsFile", "packages to install"),
    ] {
        let is_code = |path: &&str| key != "modelFile" || path.ends_with(".py");
        let Some(path) = text(key).filter(|path| manifest && is_code(path)) else { continue };
        // A file of such a name in the archive comes before TorchServe's own, and is told where it is.
        if !HANDLERS.contains(&path) {
            let (path, _) = path.split_once(':').unwrap_or((path, ""));
            let last = path.rsplit(['/', '\\']).next().unwrap_or(path);
            let module = last.strip_suffix(".py").unwrap_or(last);
            found.push(Named::Code { module: module.to_string(), name: "*".into(), key: named.into() });
        }
    }
    if let Some(Value::Object(pipelines)) = entries.get("custom_pipelines") {
        for path in pipelines.values().filter_map(|pipeline| pipeline.get("impl")?.as_str()) {
            let module = path.strip_suffix(".py").unwrap_or(path).to_string();
            found.push(Named::Code { module, name: "*".into(), key: "custom_pipelines".into() });
        }
    }
    // The models that sentence-transformers' router chooses from.
    if let Some(Value::Object(types)) = entries.get("types").filter(|_| entries.contains_key("structure")) {
        for path in types.values().filter_map(Value::as_str) {
            let (module, name) = split(path);
            found.push(Named::Code { module, name, key: "type".into() });
        }
    }
    hub::diffusers(entries, file, found);
    zarr::object(entries, found);
    exported::object(entries, found);
    loaders::object(entries, found);
}

/// What a node of skops does with its class besides making one (`skops/io/_general.py`, `skops/io/_audit.py`).
fn of_skops(
    entries: &Map<String, Value>,
    loader: &str,
    (module, class): (&str, &str),
    found: &mut Vec<Named>,
) {
    let content = entries.get("content");
    match loader {
        // Of operator's functions the one that the class is called, whatever the module.
        "OperatorFuncNode" => found.push(Named::Code {
            module: "operator".into(),
            name: class.to_string(),
            key: "__loader__".into(),
        }),
        "MethodNode" => {
            let part = |value: Option<&Value>, key: &str| Some(value?.get(key)?.as_str()?.to_string());
            let (method, object) = (part(content, "func"), content.and_then(|content| content.get("obj")));
            let owner = part(object, "__class__");
            if method.is_none_or(|method| method.starts_with('_')) {
                found.push(Named::Source("takes a method of an object's that Python uses itself".into()));
            } else if class != "method" && owner.as_deref() != Some(class) {
                let what = format!("takes a method of an object that is not {module}.{class}");
                found.push(Named::Beside(what));
            }
        }
        _ => {}
    }
}

/// Every text in `value`.
pub(super) fn texts(value: &Value, take: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => take(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, take)),
        Value::Object(entries) => entries.values().for_each(|item| texts(item, take)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::WHOLE;
    use super::*;

    fn json(text: &str) -> Vec<Named> {
        let mut found = Vec::new();
        walk(&serde_json::from_str(text).unwrap(), Above::default(), "config.json", &mut found);
        found
    }

    fn code(module: &str, name: &str, key: &str) -> Named {
        Named::Code { module: module.into(), name: name.into(), key: key.into() }
    }

    #[test]
    fn classes_are_found_however_they_are_named() {
        let spelt =
            r#"{"module": "keras.utils", "class_name": "get_file", "config": {}, "inbound_nodes": []}"#;
        assert!(matches!(json(spelt)[..], [Named::Source(_)]));
        let found = json(
            r#"{"auto_map": {"AutoModel": "me/it--modeling_it.Model", "AutoTokenizer": ["tokens.Slow", null]}}"#,
        );
        assert_eq!(found, [code("modeling_it", "Model", "auto_map"), code("tokens", "Slow", "auto_map")]);
        assert_eq!(json(r#"{"a": [{"_target_": "os.system"}]}"#), [code("os", "system", "_target_")]);
        for key in WHOLE.iter().chain(&KEYS).chain(&hub::CALLED) {
            let nested = format!(r#"{{"structure": [], {key:?}: {{"x": {{"_target_": "os.system"}}}}}}"#);
            assert!(json(&nested).contains(&code("os", "system", "_target_")), "{key}");
            for text in [r#"["${oc.create:{}}"]"#, r#"{"x": ["${${a}:{}}"]}"#, r#""${oc.decode:x}""#] {
                let nested = format!(r#"[{{{key:?}: {text}}}]"#);
                let made = |named: &Named| matches!(named, Named::Beside(what) if what.starts_with("makes"));
                assert!(json(&nested).iter().any(made), "{nested}");
            }
        }
        assert_eq!(
            json(r#"{"__module__": "os", "__class__": "system"}"#),
            [code("os", "system", "__class__")]
        );
        assert_eq!(
            json(r#"{"module": "os", "class_name": "function", "config": "system"}"#),
            [code("os", "system", "class_name")]
        );
        assert_eq!(json(r#"{"module": "keras.layers", "class_name": "Dense", "config": {}}"#), []);
        let called = r#"{"module": "keras.utils", "class_name": "function", "config": "get_file", "inbound_nodes": []}"#;
        assert!(matches!(json(called)[..], [Named::Source(_)]));
        let function = r#"{"module": "keras.saving", "class_name": "function", "config": "load_model"}"#;
        assert_eq!(json(function), [code("keras.saving", "load_model", "function")]);
        assert!(matches!(json(r#"{"class_name": "TFSMLayer", "config": {}}"#)[..], [Named::Beside(_)]));
        let operator =
            r#"{"__class__": "methodcaller", "__module__": "sklearn.x", "__loader__": "OperatorFuncNode"}"#;
        assert!(json(operator).contains(&code("operator", "methodcaller", "__loader__")));
        assert_eq!(
            json(r#"{"model": {"modelName": "m", "handler": "h.py"}}"#),
            [code("h", "*", "a handler")]
        );
        assert_eq!(
            json(r#"{"model": {"modelName": "m", "handler": "text_classifier"}, "type": "a.b"}"#).len(),
            1
        );
    }
}
