//! Flags that say which model to run and how, shared by the commands that run one.

use std::path::{Path, PathBuf};

use ckpt_infer::{Cache, KvType, LoadOptions, Model, Pool, RopeScaling, Settings, TableType, WhenFull};
use ckpt_inspect::Checkpoint;
use ckpt_inspect::meaning::StateDicts;
use ckpt_inspect::meaning::architecture::{STUDENT, TABLE};

use crate::{Failure, terminal};

/// The help text on which checkpoints can be run.
pub fn runnable() -> String {
    let others = TABLE.iter().filter(|family| ***family != STUDENT);
    let mut others: Vec<&str> = others.map(|family| family.label).collect();
    let last = others.pop().unwrap_or_default();
    let others = others.join(", ");
    format!("Checkpoint to run: a model of bitnet-student (docs/bitnet.md), {others} or {last}")
}

/// A model, and settings that override its configuration.
#[derive(clap::Args)]
pub struct ModelArgs {
    #[arg(help = runnable())]
    pub model: PathBuf,
    /// Number of threads; all processors by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Type of the cached keys and values.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    kv: Kv,
    /// Drop the oldest positions when the context is full, instead of stopping.
    #[arg(long)]
    slide: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// How to run a model.
#[derive(clap::Args)]
pub struct RunArgs {
    /// Type of the embedding and the output head in memory; by default the file's type if ckpt can compute with it
    /// directly, else f32.
    #[arg(long, value_name = "TYPE")]
    embeddings: Option<Table>,
    /// Round activations to 8 bits instead of 16 for GGUF block types and 6-bit embeddings: faster, less exact.
    #[arg(long)]
    fast: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Type of cached keys and values.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Kv {
    F32,
    F16,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Table {
    F32,
    F16,
    Int8,
    Q6,
}

/// The heading of settings, of each by itself: that of a flattened struct holds for what follows it too.
const OVERRIDES: &str = "Overriding the checkpoint's configuration";

#[derive(clap::Args)]
struct SettingsArgs {
    /// Dimensions of an attention head.
    #[arg(long, help_heading = OVERRIDES, value_name = "N", value_parser = some)]
    head_dim: Option<usize>,
    /// Number of query heads.
    #[arg(long, help_heading = OVERRIDES, value_name = "N", value_parser = some)]
    num_heads: Option<usize>,
    /// Maximum number of positions in the context.
    #[arg(long, help_heading = OVERRIDES, value_name = "N", value_parser = some)]
    max_seq_len: Option<usize>,
    /// Base of the rotary frequencies (RoPE theta).
    #[arg(long, help_heading = OVERRIDES, value_name = "X", value_parser = positive)]
    rope_base: Option<f64>,
    /// Scaling of rotary positions: `none`, or the factor of linear scaling.
    #[arg(long, help_heading = OVERRIDES, value_name = "FACTOR", value_parser = rope_scaling)]
    rope_scaling: Option<RopeScaling>,
    /// Whether the attention projections are BitLinear (ternary layers).
    #[arg(long, help_heading = OVERRIDES, value_name = "BOOL")]
    bitlinear_attn: Option<bool>,
    /// Whether the feed-forward projections are BitLinear (ternary layers).
    #[arg(long, help_heading = OVERRIDES, value_name = "BOOL")]
    bitlinear_ffn: Option<bool>,
    /// Whether each output of a BitLinear has a scale of its own.
    #[arg(long, help_heading = OVERRIDES, value_name = "BOOL")]
    bitlinear_per_channel: Option<bool>,
    /// Epsilon of quantization, added to mean|W| and max|x|.
    #[arg(long, help_heading = OVERRIDES, value_name = "X", value_parser = positive)]
    quantization_eps: Option<f64>,
    /// Epsilon of the norms, added to the mean square.
    #[arg(long, help_heading = OVERRIDES, value_name = "X", value_parser = positive)]
    norm_eps: Option<f64>,
    /// Soft cap of the attention scores, or `none`.
    #[arg(long, help_heading = OVERRIDES, value_name = "CAP", value_parser = cap)]
    attn_cap: Option<Cap>,
    /// Soft cap of the final logits, or `none`.
    #[arg(long, help_heading = OVERRIDES, value_name = "CAP", value_parser = cap)]
    final_cap: Option<Cap>,
}

/// A soft cap, or `none`.
#[derive(Clone, Copy)]
struct Cap(Option<f64>);

fn cap(text: &str) -> Result<Cap, String> {
    match text {
        "none" => Ok(Cap(None)),
        number => positive(number).map(|cap| Cap(Some(cap))),
    }
}

fn some(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|n| *n > 0);
    number.ok_or_else(|| "must be a whole number above 0".to_string())
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|x| *x > 0.0 && x.is_finite());
    number.ok_or_else(|| "must be a number above 0".to_string())
}

fn rope_scaling(text: &str) -> Result<RopeScaling, String> {
    match text {
        "none" => Ok(RopeScaling::None),
        number => positive(number).map(|factor| RopeScaling::Linear { factor }),
    }
}

impl ModelArgs {
    /// The threads to run on.
    pub fn pool(&self) -> Pool {
        pool(self.threads)
    }

    /// The checkpoint, and its model, loaded; what was assumed is noted.
    pub fn open(&self, pool: &Pool) -> Result<(Checkpoint, Model), Failure> {
        self.run.open(&self.model, pool)
    }

    /// The type of cached keys and values.
    pub fn kv(&self) -> KvType {
        self.kv.into()
    }

    /// What to do when the context is full.
    pub fn when_full(&self) -> WhenFull {
        if self.slide { WhenFull::Slide } else { WhenFull::Stop }
    }

    /// An empty cache.
    pub fn cache(&self, model: &Model) -> Cache {
        Cache::new(model.config(), self.kv(), self.when_full())
    }
}

/// This many threads, or all processors.
pub fn pool(threads: Option<u16>) -> Pool {
    Pool::new(threads.map_or_else(processors, usize::from))
}

/// Processors that this process may use.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Notes that a model's weights are run where their moving average is saved beside them.
pub fn tell_average(checkpoint: &Checkpoint) {
    if let Some(averaged) = StateDicts::averaged(checkpoint) {
        let [network, average] = [averaged.network, averaged.average].map(terminal::escape);
        terminal::note(&format!(
            "the weights in `{network}` are run, and not their moving average in `{average}` (`ckpt convert --root {average}` writes it)"
        ));
    }
}

impl RunArgs {
    /// A checkpoint, and its model, loaded; what was assumed is noted.
    pub fn open(&self, path: &Path, pool: &Pool) -> Result<(Checkpoint, Model), Failure> {
        let checkpoint = ckpt_inspect::open(path)?;
        let model = Model::load(&checkpoint, &self.options(), pool)?;
        tell_average(&checkpoint);
        model.assumed().iter().for_each(|what| terminal::note(&terminal::escape(&what.to_string())));
        Ok((checkpoint, model))
    }

    /// How to load models.
    pub fn options(&self) -> LoadOptions {
        let flags = &self.settings;
        let settings = Settings::default().with(|s| {
            s.head_dim = flags.head_dim;
            s.num_heads = flags.num_heads;
            s.max_seq_len = flags.max_seq_len;
            s.rope_base = flags.rope_base;
            s.rope_scaling = flags.rope_scaling.clone();
            s.use_bitlinear_attn = flags.bitlinear_attn;
            s.use_bitlinear_ffn = flags.bitlinear_ffn;
            s.bitlinear_per_channel = flags.bitlinear_per_channel;
            s.quantization_eps = flags.quantization_eps;
            s.norm_eps = flags.norm_eps;
            s.attn_logit_soft_cap = flags.attn_cap.map(|cap| cap.0);
            s.final_logit_soft_cap = flags.final_cap.map(|cap| cap.0);
        });
        let tables = self.embeddings.map(|table| match table {
            Table::F32 => TableType::F32,
            Table::F16 => TableType::F16,
            Table::Int8 => TableType::Int8,
            Table::Q6 => TableType::Q6,
        });
        LoadOptions::default().with(|o| (o.settings, o.tables, o.fast) = (settings, tables, self.fast))
    }
}

impl From<Kv> for KvType {
    fn from(kv: Kv) -> KvType {
        match kv {
            Kv::F32 => KvType::F32,
            Kv::F16 => KvType::F16,
        }
    }
}
