//! What the shapes of tensors show of a model, and the configuration that they make with what sources say.

use super::architecture::{Architecture, Biases, Dim, Part, Role};
use super::config::{AttentionBias, ModelConfig, Sizes};
use super::given::{Assumed, Given, Setting};

/// What the shapes of a model's tensors show.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // as in `ModelConfig`
pub struct Shapes {
    pub vocab_size: usize,
    pub hidden_dim: usize,
    pub num_layers: usize,
    /// Rows of Q; 0 where it is part of one matrix with K and V.
    pub queries: usize,
    /// Rows of K; 0 where it is part of one matrix with Q and V.
    pub keys: usize,
    /// Rows of that matrix.
    pub fused: Option<usize>,
    /// 0 where the layer consists of experts.
    pub mlp_hidden_dim: usize,
    /// Length of the norm of queries.
    pub query_norm: Option<usize>,
    /// Whether there is no head but the embedding.
    pub tie_word_embeddings: bool,
    /// Whether there is a head, be it the embedding.
    pub has_head: bool,
    pub attention_bias: AttentionBias,
    pub mlp_bias: bool,
    /// Whether Q is packed in ternary form.
    pub packed_attn: bool,
    /// Whether the gate is.
    pub packed_ffn: bool,
}

impl Shapes {
    /// The configuration of the model of `architecture` that has these shapes; what they do not give comes
    /// from the first of `sources` that does, else from the architecture's defaults, which are listed.
    pub fn configure(
        &self,
        architecture: &'static Architecture,
        sources: &[&Given],
    ) -> (ModelConfig, Vec<Assumed>) {
        let by_heads = |heads: usize| {
            let queries = if self.fused.is_some() { self.hidden_dim } else { self.queries };
            queries.checked_div(heads).filter(|&n| n > 0 && n * heads == queries)
        };
        let of_given =
            |given: &&Given| given.head_dim.filter(|&n| n > 0).or(given.num_heads.and_then(by_heads));
        // Norms of all heads together say nothing of one.
        let of_heads =
            architecture.tensor(Role::Layer(0, Part::QNorm)).is_some_and(|t| t.shape == [Dim::Head]);
        let of_norm = self.query_norm.filter(|&n| n > 0 && of_heads);
        let head_dim = of_norm.or_else(|| sources.iter().find_map(of_given));
        let usual = &architecture.defaults;
        let dim = head_dim.unwrap_or(usual.head_dim).max(1);
        let (num_heads, num_kv_heads) = match self.fused {
            None => (self.queries / dim, self.keys / dim),
            Some(rows) => {
                let heads = sources.iter().find_map(|given| given.num_heads).unwrap_or(rows / dim / 3);
                (heads, (rows / dim).saturating_sub(heads) / 2)
            }
        };
        let sizes = Sizes {
            vocab_size: self.vocab_size,
            hidden_dim: self.hidden_dim,
            num_layers: self.num_layers,
            num_heads,
            num_kv_heads,
            head_dim: dim,
            mlp_hidden_dim: match self.mlp_hidden_dim {
                0 => sources.iter().find_map(|given| given.mlp_hidden_dim).unwrap_or(0),
                rows => rows,
            },
            max_seq_len: usual.max_seq_len,
        };
        let mut config = ModelConfig::new(architecture, sizes);
        config.use_bitlinear_attn |= self.packed_attn;
        config.use_bitlinear_ffn |= self.packed_ffn;
        if architecture.biases == Biases::Configured {
            config.attention_bias = self.attention_bias;
        }
        config.mlp_bias = self.mlp_bias && architecture.has(Part::GateBias);
        sources.iter().rev().for_each(|given| given.put_into(&mut config));
        config.use_qk_norm = self.query_norm.is_some();
        // One that a source wants and that is not there is missing.
        let told = sources.iter().find_map(|given| given.tie_word_embeddings);
        config.tie_word_embeddings = self.tie_word_embeddings && (self.has_head || told != Some(false));

        let given = |of: &dyn Fn(&Given) -> bool| sources.iter().any(|given| of(given));
        let (ffn, attention) = (config.use_bitlinear_ffn, config.use_bitlinear_attn);
        let cap = |cap: Option<f64>| Setting::Number(cap.unwrap_or(f64::INFINITY));
        let settings = [
            ("head_dim", head_dim.is_some(), Setting::Size(usual.head_dim)),
            ("max_seq_len", given(&|g| g.max_seq_len.is_some()), Setting::Size(usual.max_seq_len)),
            ("rope_base", given(&|g| g.rope_base.is_some()), Setting::Number(usual.rope_base)),
            (
                "quantization_eps",
                given(&|g| g.quantization_eps.is_some()),
                Setting::Number(usual.quantization_floor.number()),
            ),
            ("norm_eps", given(&|g| g.norm_eps.is_some()), Setting::Number(usual.norm_eps)),
            // Most networks have no caps, so that need not be mentioned.
            (
                "attn_logit_soft_cap",
                usual.attn_logit_soft_cap.is_none() || given(&|g| g.attn_logit_soft_cap.is_some()),
                cap(usual.attn_logit_soft_cap),
            ),
            (
                "final_logit_soft_cap",
                usual.final_logit_soft_cap.is_none() || given(&|g| g.final_logit_soft_cap.is_some()),
                cap(usual.final_logit_soft_cap),
            ),
            (
                "use_bitlinear_ffn",
                self.packed_ffn || given(&|g| g.use_bitlinear_ffn.is_some()),
                Setting::Switch(ffn),
            ),
            (
                "use_bitlinear_attn",
                self.packed_attn || given(&|g| g.use_bitlinear_attn.is_some()),
                Setting::Switch(attention),
            ),
        ];
        let assumed = settings.into_iter().filter(|(_, given, _)| !given);
        (config, assumed.map(|(setting, _, value)| Assumed { setting, value }).collect())
    }
}
