//! Configurations by which single libraries import, evaluate or load what is named: pyannote, YOLO, mlx-lm, ONNX Runtime,
//! MMEngine, jsonpickle, LeRobot, fiddle and GluonTS.

use serde_json::{Map, Value};

use super::calls::cut;
use super::configuration::{Named, texts};
use super::globals::{Class, classify, may_be_own};
use super::keys::PYREF;
use super::source::{Texts, beyond};
use crate::pickle::{Id, Pickle};

/// The keys by which jsonpickle names classes and functions (`jsonpickle/tags.py`).
const PICKLED: [&str; 5] = ["py/object", "py/function", "py/type", "py/class", "py/mod"];

/// What the `entries` of an object have one of these libraries do.
pub(super) fn object(entries: &Map<String, Value>, found: &mut Vec<Named>) {
    pyannote(entries, found);
    yolo(entries, found);
    called(entries, found);
    let text = |key: &str| entries.get(key).and_then(Value::as_str);
    // `mlx_lm/utils.py` imports it from the model's folder.
    if let Some(file) = text("model_file").filter(|file| file.ends_with(".py")) {
        found.push(Named::Beside(format!("makes mlx-lm import code next to it: {}", cut(file))));
    }
    // ONNX Runtime's `genai_config.json`.
    if let Some(file) = text("custom_ops_library").filter(|file| !file.is_empty()) {
        found.push(Named::Beside(format!("has ONNX Runtime load the library `{}`", cut(file))));
    }
    if let Some(file) = text("backend_path").filter(|file| file.contains(['/', '\\'])) {
        found.push(Named::Beside(format!("has ONNX Runtime load the library `{}`", cut(file))));
    }
    for key in PICKLED {
        if let Some((module, name)) = text(key).and_then(|path| path.rsplit_once('.')) {
            let (module, name, key) = (module.to_string(), name.to_string(), key.to_string());
            found.push(Named::Perhaps { module, name, key });
        }
    }
}

/// What is imported by its name and called with what stands beside that: steps of LeRobot's processors
/// (`lerobot/processor/pipeline.py`), references of fiddle, by which NeMo 2 describes a model
/// (`fiddle/_src/experimental/serialization.py`), and objects of GluonTS (`gluonts/core/serde/_base.py`).
fn called(entries: &Map<String, Value>, found: &mut Vec<Named>) {
    let text = |key: &str| entries.get(key).and_then(Value::as_str);
    let mut import = |package: &str, module: &str, name: &str, key: &str| {
        let own = module.strip_prefix(package).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if !(own && may_be_own(module, name)) {
            let (module, name, key) = (module.to_string(), name.to_string(), key.to_string());
            found.push(Named::Code { module, name, key });
        }
    };
    for step in entries.get("steps").and_then(Value::as_array).into_iter().flatten() {
        if let Some((module, name)) = step.get("class").and_then(|path| path.as_str()?.rsplit_once('.')) {
            import("lerobot", module, name, "class");
        }
    }
    if let Some(module) = text("module").filter(|_| text("type") == Some(PYREF)) {
        import("fiddle", module, text("name").unwrap_or("*"), PYREF);
    }
    if let Some(path) = text("class").filter(|_| entries.contains_key("__kind__")) {
        let (module, name) = path.rsplit_once('.').unwrap_or(("builtins", path));
        import("gluonts", module, name, "class");
    }
}

/// The pipeline and its preprocessors, each of which is imported by its name and called with `params`
/// (`pyannote/audio/core/pipeline.py`).
fn pyannote(entries: &Map<String, Value>, found: &mut Vec<Named>) {
    let mut import = |described: &Value, sure: bool| {
        let Some(path) = described.get("name").and_then(Value::as_str) else { return };
        let Some((module, name)) = path.rsplit_once('.') else { return };
        let own = (module == "pyannote" || module.starts_with("pyannote."))
            && !matches!(classify(module, name), Class::Dangerous(_));
        let (module, name, key) = (module.to_string(), name.to_string(), "name".to_string());
        match (own, sure) {
            (true, _) => {}
            (false, true) => found.push(Named::Code { module, name, key }),
            (false, false) => found.push(Named::Perhaps { module, name, key }),
        }
    };
    if let Some(pipeline) = entries.get("pipeline") {
        import(pipeline, pipeline.get("params").is_some() || entries.contains_key("preprocessors"));
    }
    if let Some(Value::Object(preprocessors)) = entries.get("preprocessors") {
        preprocessors.values().for_each(|described| import(described, true));
    }
}

/// A model of YOLO, whose modules, arguments and activation are evaluated (`parse_model` in `models/yolo.py` of YOLOv5, and in
/// `ultralytics/nn/tasks.py`): `[from, number, module, arguments]`.
fn yolo(entries: &Map<String, Value>, found: &mut Vec<Named>) {
    let layers = ["backbone", "head"].into_iter().filter_map(|key| entries.get(key)?.as_array()).flatten();
    let layers: Vec<&Vec<Value>> =
        layers.filter_map(Value::as_array).filter(|layer| layer.len() >= 3).collect();
    if layers.is_empty() {
        return;
    }
    let mut source = |text: &str| {
        if let Some(what) = beyond(text, Texts::Any, &is_layer) {
            found.push(Named::Source(format!("has Python code that YOLO evaluates: {what}")));
        }
    };
    if let Some(activation) = ["activation", "act"].into_iter().find_map(|key| entries.get(key)?.as_str()) {
        source(activation);
    }
    let mut called = Vec::new();
    for layer in layers {
        if let Some(module) = layer[2].as_str() {
            source(module);
            called.push(module);
        }
        layer[3..].iter().for_each(|arguments| texts(arguments, &mut source));
    }
    // The module is called with the arguments.
    called.sort_unstable();
    called.dedup();
    for path in called {
        let (module, name) = path.rsplit_once('.').unwrap_or(("builtins", path));
        if !is_layer(path) {
            let (module, name, key) = (module.to_string(), name.to_string(), "module of a layer".to_string());
            found.push(match path.contains('.') {
                true => Named::Code { module, name, key },
                false => Named::Perhaps { module, name, key },
            });
        }
    }
}

/// Whether `path` is that of a class of PyTorch's, or of YOLO's own, which have no path.
fn is_layer(path: &str) -> bool {
    let name = path.strip_prefix("torch.").unwrap_or(path);
    let name = name.strip_prefix("nn.").or_else(|| path.strip_prefix("torchvision.ops.")).unwrap_or(path);
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// What MMEngine runs of the configuration `text` of a checkpoint, which is Python (`Config.fromstring`), and what it imports
/// because the text says so.
pub(super) fn of_mmengine(text: &str) -> Option<String> {
    let plain = |name: &str| matches!(name, "dict" | "list" | "tuple" | "set" | "int" | "float" | "str");
    match beyond(text, Texts::Any, &plain) {
        Some(what) => Some(format!("its configuration is Python code that MMEngine runs: {what}")),
        None => text.contains("custom_imports").then(|| {
            let at = text.find("custom_imports").unwrap_or(0);
            format!("its configuration has MMEngine import modules: {}", cut(&text[at..]))
        }),
    }
}

/// The class that pyannote imports for the checkpoint `pickle`, whose `id` describes an architecture (`pyannote/audio/core/model.py`).
pub(super) fn of_pyannote(pickle: &Pickle<'_>, id: Id) -> Option<String> {
    let part = |key: &str| pickle.str(pickle.entry(id, key)?);
    let (module, class) = (part("module")?, part("class")?);
    let own = module == "pyannote" || module.starts_with("pyannote.");
    (!own).then(|| format!("its architecture has pyannote import {}", cut(&format!("{module}.{class}"))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::configuration::named;
    use super::*;

    fn found(value: Value) -> Vec<Named> {
        named(&value, object)
    }

    #[test]
    fn published_models_of_yolo_are_plain_and_code_in_them_is_found() {
        let layers = |module: &str, arguments: Value| json!({"nc": "80", "activation": "nn.SiLU()", "backbone": [["-1", "1", module, arguments]], "head": []});
        for (module, arguments) in [
            ("Conv", json!(["64", "6", "2", "2"])),
            ("nn.Upsample", json!(["None", "2", "nearest"])),
            ("Detect", json!(["nc", "anchors"])),
            ("torchvision.ops.Conv2dNormActivation", json!([])),
            ("C3k2", json!(["256", "False", "0.25", ["a", "nn.ReLU(inplace=True)"]])),
        ] {
            assert_eq!(found(layers(module, arguments)), [], "{module}");
        }
        for (module, arguments) in [
            ("exec", json!(["x"])),
            ("os.system", json!(["'id'"])),
            ("Conv", json!(["__import__('os').system('id')"])),
            ("Conv", json!([["print(1)"]])),
            ("(lambda: 1)", json!([])),
        ] {
            assert!(!found(layers(module, arguments)).is_empty(), "{module}");
        }
        let called = json!({"activation": "eval('1')", "backbone": [[-1, 1, "Conv", [64]]]});
        assert!(matches!(found(called)[..], [Named::Source(_)]));
    }

    #[test]
    fn pipelines_of_pyannote_are_its_own_or_named() {
        let of = |name: &str| json!({"version": "3.1.0", "pipeline": {"name": name, "params": {}}});
        assert_eq!(found(of("pyannote.audio.pipelines.SpeakerDiarization")), []);
        assert_eq!(found(of("SpeakerDiarization")), []);
        for name in ["subprocess.Popen", "mine.Pipeline", "pyannote.audio.pipelines.os.system"] {
            assert!(matches!(found(of(name))[..], [Named::Code { .. }]), "{name}");
        }
        let other = json!({"preprocessors": {"x": {"name": "os.system", "params": {}}}});
        assert!(matches!(found(other)[..], [Named::Code { .. }]));
    }

    #[test]
    fn what_lerobot_fiddle_and_gluonts_import_is_their_own_or_named() {
        let step = |class: &str| json!({"name": "p", "steps": [{"class": class, "config": {}}]});
        let reference = |module: &str, name: &str| json!({"type": "pyref", "module": module, "name": name});
        let instance = |class: &str| json!({"__kind__": "instance", "class": class, "args": []});
        for plain in [
            json!({"name": "p", "steps": [{"registry_name": "normalizer_processor", "config": {}}]}),
            step("lerobot.processor.normalize_processor.NormalizerProcessorStep"),
            json!({"steps": ["class", {"class": "wide"}], "class": "a.b"}),
            reference("fiddle._src.config", "Config"),
            json!({"type": "ref", "module": "os", "name": "system"}),
            instance("gluonts.torch.model.predictor.PyTorchPredictor"),
        ] {
            assert_eq!(found(plain.clone()), [], "{plain}");
        }
        for named in [
            step("subprocess.Popen"),
            step("my-steps.Step"),
            step("lerobot.processor.subprocess.Popen"),
            reference("os", "system"),
            reference("fiddle.experimental", "os.system"),
            instance("evil.X"),
            instance("eval"),
            json!({"__kind__": "stateful", "class": "evil.X", "kwargs": {}}),
        ] {
            assert!(matches!(found(named.clone())[..], [Named::Code { .. }]), "{named}");
        }
    }

    #[test]
    fn configurations_of_mmengine_make_values_or_run_code() {
        let plain = "auto_scale_lr = dict(base_batch_size=16)\nmodel = dict(\n    type='RetinaNet', # one\n    neck=[(1, 2), None],\n)\n";
        assert_eq!(of_mmengine(plain), None);
        for code in
            ["import os\nmodel = dict()", "a = dict(b=eval('1'))", "custom_imports = dict(imports=['mine'])"]
        {
            assert!(of_mmengine(code).is_some(), "{code}");
        }
    }
}
