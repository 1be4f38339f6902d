//! The keys by which configurations name code.

use super::hub;
use super::json::Keep;

/// Keys by which configurations name code, or templates.
pub(super) const KEYS: [&str; 48] = [
    "auto_map",
    "custom_pipelines",
    "_target_",
    "target",
    "cls",
    "class_path",
    "parent_library",
    "chat_template",
    "class_name",
    "__module__",
    "module_path",
    "handler",
    "_class_name",
    "requirementsFile",
    "modelFile",
    "__loader__",
    "type",
    "attn_implementation",
    "_instantiator",
    "activation_fn",
    "activation_function",
    "tokenizer_class",
    "megatron_core",
    "types",
    "template",
    "_diffusers_version",
    "_component_",
    "kernel_mapping",
    "loader_module",
    "expr_str",
    "__enum__",
    "default_factory_module",
    "sbert_ce_default_activation_function",
    "preprocessors",
    "pipeline",
    "backbone",
    "model_file",
    "custom_ops_library",
    "backend_path",
    PYREF,
    "__kind__",
    "py/",
    "\"$",
    "'$",
    "${oc",
    "${${",
    "!!python",
    "tag:yaml.org,2002:python",
];

/// Keys below which everything is kept of a large configuration, and further ones of which texts are.
pub(super) const WHOLE: [&str; 27] = [
    "auto_map",
    "_target_",
    "_component_",
    "parent_library",
    "chat_template",
    "chat_templates",
    "attn_implementation",
    "_attn_implementation",
    "kernel_mapping",
    "custom_pipelines",
    "types",
    "structure",
    "inbound_nodes",
    "__enum__",
    "params",
    "pipeline",
    "preprocessors",
    "backbone",
    "head",
    "_class_name",
    "_diffusers_version",
    "filters",
    "compressor",
    "codecs",
    "compressors",
    "serializer",
    "codec",
];
const TEXTS: [&str; 22] = [
    "function",
    "module",
    "registered_name",
    "config",
    "vocabulary",
    "merges",
    "__class__",
    "__module__",
    "func",
    "fqn",
    "default_factory_name",
    "in_spec",
    "out_spec",
    "treespec",
    "context",
    "serializedFile",
    "modelName",
    "code",
    "model_code_path",
    "activation",
    "act",
    "impl",
];

/// The type of what fiddle imports.
pub(super) const PYREF: &str = "pyref";

/// What may name code.
pub(super) struct Code;

impl Keep for Code {
    fn whole(&self, key: &str) -> bool {
        WHOLE.contains(&key)
    }

    fn text(&self, key: &str) -> bool {
        TEXTS.contains(&key) || KEYS.contains(&key) || hub::CALLED.contains(&key)
    }

    fn path(&self, key: &str) -> bool {
        matches!(key, "target" | "cls" | "class" | "class_path" | "type" | "template")
            || key.starts_with("py/")
    }

    fn anywhere(&self, text: &str) -> bool {
        text.contains('$')
            || text == PYREF
            || ["__enum__", "default_factory_module"].iter().any(|mark| text.contains(mark))
    }
}
