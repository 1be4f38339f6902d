//! Which network a checkpoint contains: bitnet-student by names and shapes, else what config.json or GGUF keys say,
//! else unknown. Whatever had to be assumed is listed.

use serde::{Deserialize, Serialize};

use super::architecture::{Architecture, Biases, Kind, Part, Role, STUDENT};
use super::config::ModelConfig;
use super::config_json;
use super::elements::Floor;
use super::gguf_keys;
use super::given::{Assumption, ConfigError, Given};
use super::names::{self, Names, Style};
use super::quantization::Quantization;
use super::rope::RopeScaling;
use crate::ggml::GgmlType;
use crate::metadata::{Value, lookup};
use crate::tensor::TensorInfo;
use crate::{Checkpoint, Format, Group};

/// The name of an unrecognised network.
const UNKNOWN: &str = "unknown";

/// What is known about the network.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Model {
    /// `bitnet-student`, an architecture named by config.json or GGUF, or `unknown`.
    pub architecture: String,
    /// The student's configuration, when it is one.
    pub student: Option<ModelConfig>,
    /// The configuration in a file next to the checkpoint or inside it.
    pub config: Option<Value>,
    /// What had to be assumed.
    pub assumed: Vec<Assumption>,
    /// `quantization_config` of config.json.
    pub quantization: Option<Quantization>,
    /// Whether a merge's own configuration beside it says that layers may be there more than once.
    pub repeats_layers: bool,
    /// What the configuration or the GGUF keys say.
    given: Result<Given, ConfigError>,
    /// Whether the keys are a GGUF file's.
    is_gguf: bool,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            architecture: String::new(),
            student: None,
            config: None,
            assumed: Vec::new(),
            quantization: None,
            repeats_layers: false,
            given: Err(ConfigError::Unknown),
            is_gguf: false,
        }
    }
}

/// Which network a checkpoint contains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelRecord {
    /// `bitnet-student`, a Hugging Face or GGUF architecture name, or `unknown`.
    pub architecture: String,
    /// Its configuration as far as known.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// What had to be assumed because the checkpoint does not give it, in words.
    pub assumed: Vec<String>,
    /// Whether a merge's own configuration beside it says that layers may be there more than once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeats_layers: bool,
}

impl ModelRecord {
    /// Whether it is bitnet-student, whose configuration is a [`ModelConfig`]'s.
    pub fn is_student(&self) -> bool {
        self.architecture == STUDENT.name
    }
}

impl Model {
    /// Recognises the network from its tensors, the checkpoint's plain values, and config.json if there is one.
    pub(crate) fn recognise(tensors: &[TensorInfo], metadata: &Value, hf_config: Option<&Value>) -> Model {
        if let Some(architecture) = gguf_keys::architecture(metadata) {
            let given = Given::of_gguf(metadata);
            return Model { architecture: architecture.into(), given, is_gguf: true, ..Model::default() };
        }
        // A trainer's own config says more than the config.json that a conversion wrote next to the weights.
        let own =
            hf_config.filter(|_| given_config(metadata).is_some()).and_then(|_| student(tensors, metadata));
        if let Some(model) = own {
            return model;
        }
        if let Some(config) = hf_config
            && let Some(name) = config_json::class(config)
        {
            return Model {
                architecture: name.to_string(),
                config: Some(config.clone()),
                quantization: Quantization::of_config(config),
                given: Given::of_hugging_face(config),
                ..Model::default()
            };
        }
        if let Some(model) = student(tensors, metadata) {
            return model;
        }
        Model::unknown()
    }

    /// A network that is not recognised.
    pub(crate) fn unknown() -> Model {
        Model { architecture: UNKNOWN.into(), ..Model::default() }
    }

    /// Whether the network is not recognised, neither by tensors nor by a configuration.
    pub fn is_unknown(&self) -> bool {
        self.architecture == UNKNOWN
    }

    /// What its configuration or the keys of a GGUF file say; nothing for a student without configuration.
    ///
    /// # Errors
    /// `Unknown` and `Architecture` for models that are not in the table, `NotUnderstood`.
    pub fn given(&self) -> Result<&Given, &ConfigError> {
        self.given.as_ref()
    }

    /// Its family, if that is in the table.
    pub fn family(&self) -> Option<&'static Architecture> {
        match &self.student {
            Some(student) => Some(student.architecture),
            None => self.given.as_ref().ok()?.architecture,
        }
    }

    /// Whether a BitLinear uses the matrix `tensor`, so that it is judged by its ternary form.
    pub fn is_ternary(&self, tensor: &TensorInfo) -> bool {
        if tensor.dtype.is_ternary() {
            return true;
        }
        if tensor.group != Group::Weights || tensor.shape.len() != 2 {
            return false;
        }
        let keys = self.of_our_gguf();
        // Where rows do not fill blocks of ternary codes they are in these, which hold codes times a scale as exactly.
        let in_codes = self.is_gguf && self.holds_codes();
        let in_blocks = in_codes && tensor.dtype == GgmlType::Q8_0.dtype();
        if !(tensor.dtype.is_float() || in_blocks) {
            return false;
        }
        if let Some(keys) = keys {
            let used = match names::role_in(self.family(), &tensor.name).map(Role::kind) {
                Some(Kind::Attention) => keys.use_bitlinear_attn,
                Some(Kind::Mlp) => keys.use_bitlinear_ffn,
                _ => None,
            };
            return used == Some(true);
        }
        if self.student.is_none() && !in_codes && !self.is_bitnet() {
            return false;
        }
        names::role_in(self.family(), &tensor.name).is_some_and(|role| match &self.student {
            Some(student) => student.is_bitlinear(role),
            None => matches!(role.kind(), Kind::Attention | Kind::Mlp),
        })
    }

    /// What the keys of a GGUF file say, when ckpt wrote it from a model with BitLinears.
    fn of_our_gguf(&self) -> Option<&Given> {
        let given = self.given.as_ref().ok().filter(|_| self.is_gguf)?;
        [given.use_bitlinear_attn, given.use_bitlinear_ffn].contains(&Some(true)).then_some(given)
    }

    /// BitNet, by its quantization; by its architecture too in GGUF files, which record no quantization, and where only the
    /// name of its class is known. transformers' own class has plain layers unless its configuration says otherwise.
    fn is_bitnet(&self) -> bool {
        let by_name = self.is_gguf || self.family().is_none();
        by_name && self.architecture.to_ascii_lowercase().contains("bitnet")
            || self.quantization.as_ref().is_some_and(Quantization::is_bitnet)
    }

    /// What keeps mean|W| of its BitLinears from zero: by its configuration, else at least 1e-5 for Hugging Face's
    /// BitNet, as transformers' `BitLinear` has it, and the student's 1e-8 more for others.
    pub fn quantization_floor(&self) -> Floor {
        let student = self.student.as_ref().map(|student| student.quantization_floor);
        let ours = || self.of_our_gguf()?.quantization_eps.map(Floor::Added);
        let usual = || match self.is_bitnet() {
            true => Floor::Least(1e-5),
            false => STUDENT.defaults.quantization_floor,
        };
        student.or_else(ours).unwrap_or_else(usual)
    }

    /// Whether the matrices of its BitLinears hold codes times a scale already, in whatever type, and not the float
    /// weights: `latent` is false in the student's configuration, or `ckpt.latent` in a GGUF file, or Hugging Face's BitNet is
    /// not `online`; a GGUF file of BitNet that does not say so holds them too, as every program writes it. They are not to be
    /// rounded a second time, since mean|W| is another scale.
    pub fn holds_codes(&self) -> bool {
        let given = self.given.as_ref().ok().filter(|_| self.student.is_some() || self.is_gguf);
        let latent = given.and_then(|given| given.latent);
        let offline = self.quantization.as_ref().is_some_and(|q| q.is_bitnet() && !q.online);
        let in_gguf = self.is_gguf && self.of_our_gguf().is_none() && self.is_bitnet() && latent.is_none();
        offline || in_gguf || latent == Some(false)
    }

    /// The plain record of it.
    pub fn record(&self) -> ModelRecord {
        let config = match (&self.student, &self.config) {
            (Some(student), _) => student.to_record(),
            (None, Some(config)) => match crate::metadata::to_json(config) {
                serde_json::Value::Object(map) => map,
                _ => Default::default(),
            },
            (None, None) => Default::default(),
        };
        ModelRecord {
            architecture: self.architecture.clone(),
            config,
            assumed: self.assumed.iter().map(Assumption::to_string).collect(),
            repeats_layers: self.repeats_layers,
        }
    }
}

impl Checkpoint {
    /// The configuration of its model: the student's, or that of config.json or the keys of a GGUF file if the
    /// architecture is in the table.
    ///
    /// # Errors
    /// Those of [`Model::given`], and `Missing`.
    pub fn model_config(&self) -> Result<ModelConfig, ConfigError> {
        if let Some(student) = &self.model.student {
            return Ok(student.clone());
        }
        let mut given = self.model.given.clone()?;
        let names = Names::of(self);
        let rows = names.get(Role::Embedding).and_then(|t| t.shape.first().copied());
        given.tie_word_embeddings = Some(names.is_tied(given.tie_word_embeddings));
        if let Format::Gguf { .. } = self.format {
            given.vocab_size = rows.or(given.vocab_size);
            if given.architecture.is_some_and(|a| a.biases == Biases::Configured) {
                given.attention_bias = Some(names.attention_bias());
            }
            if given.architecture.is_some_and(|a| a.has(Part::GateBias)) {
                given.mlp_bias = Some(names.mlp_bias());
            }
            // Numbers that a file lacks have llama.cpp's defaults.
            let base = *given.rope_base.get_or_insert(1e4);
            let factors = || self.values(names.get(Role::RopeFactors)?).ok();
            self.read_long_factors(&names, &mut given);
            given.rope_scaling = given.rope_scaling.or_else(|| RopeScaling::of_factors(&factors()?, base));
        } else {
            given.vocab_size = rows.or(given.vocab_size).or(Some(0));
        }
        given.complete()
    }
}

impl Checkpoint {
    /// Adds to `given` the scaling of rotary positions for long texts that a GGUF file has as tensors, if it has them and
    /// its keys do not say the same.
    pub fn read_long_factors(&self, names: &Names<'_>, given: &mut Given) {
        let values = |role| self.values(names.get(role)?).ok();
        let told = given.rope_scaling.as_ref().is_some_and(|scaling| scaling.missing().is_none());
        if let (false, Some(short), Some(long)) =
            (told, values(Role::ShortFactors), values(Role::LongFactors))
        {
            let longest = given.max_seq_len.map(|n| n as f64);
            let mut scaling =
                RopeScaling::of_long_factors([&short, &long], given.rope_original, given.rope_attention);
            scaling.settle_original(None, longest);
            given.rope_scaling = Some(scaling);
        }
    }
}

/// The student's config among the plain values, where a trainer put it.
fn given_config(metadata: &Value) -> Option<&Value> {
    let config = lookup(metadata, "config.model").or_else(|| lookup(metadata, "config"))?;
    lookup(config, "hidden_dim").map(|_| config)
}

fn student(tensors: &[TensorInfo], metadata: &Value) -> Option<Model> {
    let given_model = lookup(metadata, "config.model").or_else(|| lookup(metadata, "config"));
    // Names that begin with `model.`, whatever they are wrapped in, are Hugging Face's unless the trainer's own config is
    // saved with them.
    let configured = given_config(metadata).is_some();
    let hf_style = || {
        let table = STUDENT.name(Role::Embedding, Style::Hf).unwrap_or_default();
        tensors.iter().any(|t| t.name.ends_with(&table))
    };
    if !configured && hf_style() {
        return None;
    }
    // With GGUF's names it may be any architecture with such tensors.
    if names::style_of(tensors.iter().map(|t| t.name.as_str())) == Some(Style::Gguf) {
        return None;
    }
    let shapes = Names::new(tensors, &STUDENT, Style::Student).shapes()?;
    // A Llama has these names too, without norms of queries; that its weights are float is then all that is known.
    if !(configured || shapes.query_norm.is_some() || shapes.packed_attn || shapes.packed_ffn) {
        return None;
    }
    let given = given_model.map_or_else(|| Ok(Given::default()), Given::of_trainer);
    let (config, settings) = shapes.configure(&STUDENT, &[&given.clone().unwrap_or_default()]);
    let mut assumed: Vec<Assumption> =
        given.as_ref().err().cloned().map(Assumption::ConfigNotUsed).into_iter().collect();
    if !settings.is_empty() {
        assumed.push(Assumption::Settings(settings));
    }
    Some(Model {
        architecture: STUDENT.name.into(),
        student: Some(config),
        config: given_model.cloned(),
        assumed,
        given,
        ..Model::default()
    })
}
