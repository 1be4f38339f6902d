//! Configurations of the Hugging Face Hub's libraries that name classes: diffusers and sentence-transformers; and the source that
//! transformers runs without one.

use std::path::Path;

use serde_json::{Map, Value};

use super::Rule;
use super::calls::cut;
use super::configuration::{Named, split};
use super::content::{Place, Scanner};
use super::globals::{Class, classify};
use super::kind::SOURCE;

/// Libraries that components of diffusers' pipelines are from, and its own folders of pipelines.
const LIBRARIES: [&str; 24] = [
    "diffusers",
    "transformers",
    "onnxruntime",
    "optimum",
    "peft",
    "flax",
    "alt_diffusion",
    "audioldm2",
    "blip_diffusion",
    "deepfloyd_if",
    "hunyuan_video",
    "kandinsky",
    "latent_diffusion",
    "ledits_pp",
    "musicldm",
    "paint_by_example",
    "pixart_alpha",
    "sana",
    "shap_e",
    "stable_cascade",
    "stable_diffusion",
    "stable_diffusion_safe",
    "unidiffuser",
    "wuerstchen",
];

/// Whose kernels transformers takes without being told to trust them.
pub(super) const KERNELS: &str = "kernels-community/";

/// Whether `path` is that of the source by which a repository generates (`custom_generate` in `transformers/generation/utils.py`).
pub(super) fn is_generation(path: &Path) -> bool {
    path.ends_with("custom_generate/generate.py")
}

impl Scanner<'_> {
    /// Reports such a source, which is called `name`, and returns its kind.
    pub(super) fn generation(&mut self, name: &str) -> String {
        let message = format!(
            "`{}` is a source that transformers runs to generate, if it is told to trust remote code",
            cut(name)
        );
        self.find(Rule::CustomCode, &Place::default(), None, message);
        SOURCE.to_string()
    }
}

/// The index of a pipeline, and of one in parts.
const INDEXES: [&str; 2] = ["model_index.json", "modular_model_index.json"];

/// What the `entries` of a configuration of diffusers in the file called `file` make it import.
pub(super) fn diffusers(entries: &Map<String, Value>, file: &str, found: &mut Vec<Named>) {
    let class = entries.get("_class_name");
    let of_pipeline = class.and_then(Value::as_str).is_some_and(|class| class.ends_with("Pipeline"));
    let is_index = INDEXES.iter().any(|index| file.eq_ignore_ascii_case(index)) || of_pipeline;
    // A component's library, or a file of its own beside it, and the class in that.
    if is_index || entries.contains_key("_diffusers_version") {
        for (key, component) in entries {
            if let Some([Value::String(library), Value::String(class), ..]) =
                component.as_array().map(Vec::as_slice)
                && !LIBRARIES.contains(&library.as_str())
                // Other configurations have lists of the names of their own blocks.
                && (is_index || library.starts_with(|c: char| c.is_lowercase()))
            {
                let (module, name) = (library.clone(), class.clone());
                found.push(Named::Code { module, name, key: key.clone() });
            }
        }
    }
    // A file beside the configuration, and the class in it.
    if let Some([Value::String(module), Value::String(name)]) =
        class.and_then(Value::as_array).map(Vec::as_slice)
    {
        let (module, name) = (module.clone(), name.clone());
        found.push(Named::Code { module, name, key: "_class_name".into() });
    }
}

/// The keys by which sentence-transformers and Lightning import and call an activation, a tokenizer or an instantiator.
pub(super) const CALLED: [&str; 5] = [
    "_instantiator",
    "activation_fn",
    "activation_function",
    "sbert_ce_default_activation_function",
    "tokenizer_class",
];

/// What Lightning's own command line names in hyperparameters.
pub(super) const INSTANTIATORS: [&str; 2] =
    ["lightning.pytorch.cli.instantiate_module", "pytorch_lightning.cli.instantiate_module"];

/// What `path` is, which one of these keys has: nothing to be told if it is a layer of PyTorch's, which its modules define,
/// or the library's own.
pub(super) fn called(key: &str, path: &str) -> Option<Named> {
    let (module, name) = split(path);
    let layer = module.starts_with("torch.nn.modules.") && classify(&module, &name) == Class::Harmless
        || module == "torch.nn" && classify("torch.nn.modules", &name) == Class::Harmless;
    let own = match key {
        "_instantiator" => INSTANTIATORS.contains(&path),
        "tokenizer_class" => module.starts_with("sentence_transformers."),
        _ => layer,
    };
    (!own).then(|| Named::Code { module, name, key: key.into() })
}

/// Whether an object of these `entries` in the file called `file` is a module of sentence-transformers, whose `type` it imports.
pub(super) fn is_module(entries: &Map<String, Value>, file: &str) -> bool {
    let has = |key: &str| entries.contains_key(key);
    file.eq_ignore_ascii_case("modules.json") || has("path") && has("idx")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn components_of_pipelines_are_told_from_lists_of_blocks() {
        let found = |file: &str, value: Value| {
            let mut found = Vec::new();
            diffusers(value.as_object().unwrap(), file, &mut found);
            found.len()
        };
        let index = json!({"_class_name": "X", "unet": ["mine", "E"], "vae": ["diffusers", "V"]});
        assert_eq!(found("model_index.json", index.clone()), 1);
        assert_eq!(found("other.json", index), 0);
        assert_eq!(found("x.json", json!({"_class_name": "XPipeline", "unet": ["Mine", "E", {}]})), 1);
        let blocks = json!({"_class_name": "UNet2DModel", "_diffusers_version": "0.30.0", "down_block_types": ["A", "B"]});
        assert_eq!(found("config.json", blocks), 0);
    }
}
