//! What the gate lets through: the `[gate]` table of `ckpt.toml`.
//!
//! ```
//! let policy = ckpt_reports::Policy::from_toml(
//!     r#"
//!     [gate]
//!     allow = "weak"
//!     ignore = ["*.lora_B.*"]
//!
//!     [[gate.tensors]]
//!     pattern = "*.mlp.*_proj.weight"
//!     allow = "healthy"
//!     healthy = 5e-3
//!     "#,
//! )?;
//! assert_eq!(policy.tensors[0].healthy, Some(5e-3));
//! # Ok::<(), ckpt_reports::PolicyError>(())
//! ```

use ckpt_inspect::{Levels, Off, Thresholds, Verdict, without_state_dict};
use globset::GlobMatcher;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a checkpoint must be to pass. By default, only healthy and untrained weights pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, remote = "Self")]
#[non_exhaustive]
pub struct Policy {
    /// The worst verdict a tensor may have: `healthy` when not given, or `weak` when not given beside
    /// `min_healthy`. Never `corrupt`.
    #[serde(deserialize_with = "allowed", skip_serializing_if = "Option::is_none")]
    pub allow: Option<Verdict>,
    /// Which weights decide.
    pub scope: Scope,
    /// Whether what is still zero, as it begins by design, is refused.
    pub require_trained: bool,
    /// Smallest share (0 to 1) of the judged tensors that must be healthy.
    #[serde(deserialize_with = "optional_share", skip_serializing_if = "Option::is_none")]
    pub min_healthy: Option<f64>,
    /// How many of the judged tensors may be dead. When given, it decides about dead tensors instead of `allow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_dead: Option<u64>,
    /// The training step that every checkpoint must be of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_step: Option<u64>,
    /// The training step that every checkpoint must have reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_step: Option<u64>,
    /// Tensors that are left out of every check.
    pub ignore: Vec<Pattern>,
    /// Rules of verdicts that are not asked, by their names.
    pub off: Off,
    /// Where each level begins.
    #[serde(deserialize_with = "thresholds")]
    pub thresholds: Thresholds,
    /// Exceptions by name; where several entries match, the later ones win, key by key.
    pub tensors: Vec<TensorPolicy>,
    /// What counts as worse than the baseline.
    pub baseline: BaselinePolicy,
}

impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Policy::serialize(self, serializer)
    }
}

/// Its thresholds know which rules are off.
impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut policy = Policy::deserialize(deserializer)?;
        policy.thresholds.off = policy.off;
        Ok(policy)
    }
}

/// Which weight matrices are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Scope {
    /// Every weight.
    #[default]
    #[serde(alias = "matrices")]
    All,
    /// Matrices that a BitLinear uses, packed ternary ones, and those named `*_proj`; in a checkpoint that has none
    /// of these, every weight. Also those that an entry of [`Policy::tensors`] names.
    Projections,
}

/// What holds for the tensors of one name pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TensorPolicy {
    /// Which tensors.
    pub pattern: Pattern,
    /// The worst verdict they may have.
    #[serde(default, deserialize_with = "allowed", skip_serializing_if = "Option::is_none")]
    pub allow: Option<Verdict>,
    /// Where healthy begins, in the unit the tensor is judged in: std of a matrix that a BitLinear uses,
    /// std * sqrt(fan_in) of any other.
    #[serde(default, deserialize_with = "optional_level", skip_serializing_if = "Option::is_none")]
    pub healthy: Option<f64>,
    /// Where weak begins, in the same unit.
    #[serde(default, deserialize_with = "optional_level", skip_serializing_if = "Option::is_none")]
    pub weak: Option<f64>,
    /// Where dying begins, in the same unit; below it a tensor is dead.
    #[serde(default, deserialize_with = "optional_level", skip_serializing_if = "Option::is_none")]
    pub dying: Option<f64>,
    /// Share of zeros after quantization from which a ternary matrix is dead.
    #[serde(default, deserialize_with = "optional_share", skip_serializing_if = "Option::is_none")]
    pub dead_zero_share: Option<f64>,
    /// By what factor std may fall below the baseline's.
    #[serde(default, deserialize_with = "optional_factor", skip_serializing_if = "Option::is_none")]
    pub max_shrink: Option<f64>,
}

impl TensorPolicy {
    /// No exception yet, for the tensors that `pattern` matches.
    pub fn new(pattern: Pattern) -> Self {
        TensorPolicy {
            pattern,
            allow: None,
            healthy: None,
            weak: None,
            dying: None,
            dead_zero_share: None,
            max_shrink: None,
        }
    }
}

/// What counts as worse than the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct BaselinePolicy {
    /// By what factor the std of a weight matrix may fall: 2 unless given. Over 1 000 steps of a healthy run of the
    /// bitnet-student model it fell by at most 1.23; over 500 steps of one that collapsed, by 2.7.
    #[serde(deserialize_with = "factor")]
    pub max_shrink: f64,
    /// Share of a ternary matrix's rows, and of its columns, that may have died: 0 unless given.
    #[serde(deserialize_with = "share")]
    pub max_new_dead: f64,
    /// Whether a verdict may be worse than the baseline's as long as `allow` admits it.
    pub allow_worse: bool,
    /// Whether weights of the baseline may be absent.
    pub allow_missing: bool,
}

impl Default for BaselinePolicy {
    fn default() -> Self {
        BaselinePolicy { max_shrink: 2.0, max_new_dead: 0.0, allow_worse: false, allow_missing: false }
    }
}

/// A glob over tensor names; `*` crosses dots. It matches a name as in the file or without the key of its
/// state dict.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: String,
    matcher: GlobMatcher,
}

impl Pattern {
    /// Compiles `glob`.
    ///
    /// # Errors
    /// When it is not a valid glob.
    pub fn new(glob: &str) -> Result<Self, PolicyError> {
        let compiled = globset::Glob::new(glob).map_err(|e| PolicyError(e.to_string()))?;
        Ok(Pattern { source: glob.to_string(), matcher: compiled.compile_matcher() })
    }

    /// The glob.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether it covers the tensor called `name`.
    pub fn matches(&self, name: &str) -> bool {
        self.matcher.is_match(name) || self.matcher.is_match(without_state_dict(name))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Pattern::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Why a policy file does not hold a policy: the line, the key, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

/// The whole of `ckpt.toml`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    gate: Policy,
}

/// What holds for one tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct TensorRules {
    /// The worst verdict it may have.
    pub allow: Verdict,
    /// Where each level begins.
    pub thresholds: Thresholds,
    /// By what factor its std may fall below the baseline's.
    pub max_shrink: f64,
    /// Whether an entry of the policy names it.
    pub named: bool,
}

/// A pattern that matches nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unmatched {
    /// The key of the policy that it is of: `ignore` or `tensors`.
    pub key: &'static str,
    /// The glob.
    pub pattern: String,
}

impl Policy {
    /// Every pattern in it.
    pub fn patterns(&self) -> Vec<(Unmatched, &Pattern)> {
        let of = |key, pattern| (Unmatched { key, pattern: Pattern::as_str(pattern).to_string() }, pattern);
        let ignored = self.ignore.iter().map(|pattern| of("ignore", pattern));
        ignored.chain(self.tensors.iter().map(|entry| of("tensors", &entry.pattern))).collect()
    }

    /// The policy in the text of a `ckpt.toml`.
    ///
    /// # Errors
    /// With the line and the key, for text that is not TOML, unknown keys, and values out of their range.
    pub fn from_toml(text: &str) -> Result<Policy, PolicyError> {
        let file: File = toml::from_str(text).map_err(|e| PolicyError(e.to_string().trim_end().into()))?;
        Ok(file.gate)
    }

    /// Switches the rule called `name` off.
    ///
    /// # Errors
    /// When no rule is called so.
    pub fn switch_off(&mut self, name: &str) -> Result<(), PolicyError> {
        self.off.add(name).map_err(PolicyError)?;
        self.thresholds.off = self.off;
        Ok(())
    }

    /// The worst verdict that tensors without an entry of their own may have.
    pub fn allowed(&self) -> Verdict {
        self.allow.unwrap_or(if self.min_healthy.is_some() { Verdict::Weak } else { Verdict::Healthy })
    }

    /// Whether the tensor called `name` is left out.
    pub fn ignores(&self, name: &str) -> bool {
        self.ignore.iter().any(|pattern| pattern.matches(name))
    }

    /// What holds for the tensor called `name`.
    pub fn rules(&self, name: &str) -> TensorRules {
        let mut rules = TensorRules {
            allow: self.allowed(),
            thresholds: self.thresholds,
            max_shrink: self.baseline.max_shrink,
            named: false,
        };
        for entry in self.tensors.iter().filter(|entry| entry.pattern.matches(name)) {
            rules.named = true;
            rules.allow = entry.allow.unwrap_or(rules.allow);
            rules.max_shrink = entry.max_shrink.unwrap_or(rules.max_shrink);
            rules.thresholds.dead_zero_share =
                entry.dead_zero_share.unwrap_or(rules.thresholds.dead_zero_share);
            let Thresholds { projection, relative, convolutions, tables, .. } = &mut rules.thresholds;
            for levels in [projection, relative, convolutions, tables] {
                levels.healthy = entry.healthy.unwrap_or(levels.healthy);
                levels.weak = entry.weak.unwrap_or(levels.weak);
                levels.dying = entry.dying.unwrap_or(levels.dying);
            }
        }
        rules
    }
}

/// A share: 0 to 1.
///
/// # Errors
/// In words, when it is not.
pub fn check_share(value: f64) -> Result<f64, String> {
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(format!("{value} is not a share from 0 to 1")) }
}

/// A factor by which something may shrink: at least 1.
///
/// # Errors
/// In words, when it is not.
pub fn check_factor(value: f64) -> Result<f64, String> {
    if value >= 1.0 && value.is_finite() {
        Ok(value)
    } else {
        Err(format!("{value} is not a factor of at least 1"))
    }
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    check_share(f64::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn optional_share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    share(deserializer).map(Some)
}

fn factor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    check_factor(f64::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn optional_factor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    factor(deserializer).map(Some)
}

fn optional_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if value >= 0.0 && value.is_finite() {
        Ok(Some(value))
    } else {
        Err(D::Error::custom(format!("{value} is not a size: a level is 0 or more")))
    }
}

fn allowed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Verdict>, D::Error> {
    match Verdict::deserialize(deserializer)? {
        Verdict::Corrupt => {
            Err(D::Error::custom("corrupt tensors never pass; leave single ones out with `ignore`"))
        }
        verdict => Ok(Some(verdict)),
    }
}

/// Thresholds as a policy writes them: what it leaves out stays as it is by default.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PartialThresholds {
    projection: PartialLevels,
    relative: PartialLevels,
    convolutions: PartialLevels,
    tables: PartialLevels,
    #[serde(deserialize_with = "optional_share")]
    dead_zero_share: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PartialLevels {
    #[serde(deserialize_with = "optional_level")]
    healthy: Option<f64>,
    #[serde(deserialize_with = "optional_level")]
    weak: Option<f64>,
    #[serde(deserialize_with = "optional_level")]
    dying: Option<f64>,
}

impl PartialLevels {
    fn over(self, mut levels: Levels) -> Result<Levels, String> {
        let healthy = self.healthy.unwrap_or(levels.healthy);
        let weak = self.weak.unwrap_or(levels.weak);
        let dying = self.dying.unwrap_or(levels.dying);
        if healthy >= weak && weak >= dying {
            (levels.healthy, levels.weak, levels.dying) = (healthy, weak, dying);
            Ok(levels)
        } else {
            Err(format!("the levels must fall: healthy {healthy:e}, weak {weak:e}, dying {dying:e}"))
        }
    }
}

fn thresholds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Thresholds, D::Error> {
    let given = PartialThresholds::deserialize(deserializer)?;
    let mut thresholds = Thresholds::default();
    let error = |key: &str| {
        let key = key.to_string();
        move |e: String| D::Error::custom(format!("`{key}`: {e}"))
    };
    thresholds.projection = given.projection.over(thresholds.projection).map_err(error("projection"))?;
    thresholds.relative = given.relative.over(thresholds.relative).map_err(error("relative"))?;
    thresholds.convolutions =
        given.convolutions.over(thresholds.convolutions).map_err(error("convolutions"))?;
    thresholds.tables = given.tables.over(thresholds.tables).map_err(error("tables"))?;
    thresholds.dead_zero_share = given.dead_zero_share.unwrap_or(thresholds.dead_zero_share);
    Ok(thresholds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Policy::from_toml(text).unwrap_err().to_string()
    }

    #[test]
    fn nothing_said_is_the_strict_default() {
        let policy = Policy::from_toml("").unwrap();
        assert_eq!(policy, Policy::default());
        assert_eq!(policy.allowed(), Verdict::Healthy);
        assert_eq!(policy.rules("a").thresholds, Thresholds::default());
        assert_eq!(policy.rules("a").max_shrink, 2.0);
    }

    #[test]
    fn every_key_is_read() {
        let policy = Policy::from_toml(
            r#"
            [gate]
            allow = "dying"
            scope = "matrices"
            min_healthy = 0.9
            max_dead = 2
            require_step = 4000
            min_step = 10
            ignore = ["lm_head.*"]
            off = ["equal-layers", "constant"]
            [gate.thresholds]
            dead_zero_share = 0.95
            projection = { healthy = 2e-3, weak = 2e-5, dying = 2e-6 }
            tables = { healthy = 1e-2 }
            [gate.thresholds.convolutions]
            dying = 1e-6
            [gate.thresholds.relative]
            healthy = 0.5
            [[gate.tensors]]
            pattern = "*.mlp.*"
            allow = "weak"
            healthy = 1
            weak = 0.1
            dying = 0.01
            dead_zero_share = 0.5
            max_shrink = 10
            [gate.baseline]
            max_shrink = 3
            max_new_dead = 0.1
            allow_worse = true
            allow_missing = true
            "#,
        )
        .unwrap();
        assert_eq!((policy.allow, policy.scope), (Some(Verdict::Dying), Scope::All));
        assert_eq!((policy.min_healthy, policy.max_dead), (Some(0.9), Some(2)));
        assert_eq!((policy.require_step, policy.min_step), (Some(4000), Some(10)));
        assert!(policy.ignores("model_state_dict.lm_head.weight") && !policy.ignores("norm.weight"));
        assert_eq!(policy.off.names().collect::<Vec<_>>(), ["constant", "equal-layers"]);
        assert_eq!(policy.thresholds.off, policy.off);
        assert_eq!(policy.thresholds.relative.healthy, 0.5);
        assert_eq!(policy.thresholds.relative.weak, Thresholds::default().relative.weak);
        assert_eq!((policy.thresholds.tables.healthy, policy.thresholds.convolutions.dying), (1e-2, 1e-6));
        let other = policy.rules("layers.0.self_attn.q_proj.weight");
        assert_eq!((other.allow, other.max_shrink, other.named), (Verdict::Dying, 3.0, false));
        assert_eq!(other.thresholds.projection.weak, 2e-5);
        let named = policy.rules("layers.0.mlp.up_proj.weight");
        assert_eq!((named.allow, named.max_shrink, named.named), (Verdict::Weak, 10.0, true));
        let Levels { healthy, weak, dying, .. } = named.thresholds.relative;
        assert_eq!([healthy, weak, dying], [1.0, 0.1, 0.01]);
        let Thresholds { projection, relative, convolutions, tables, .. } = named.thresholds;
        assert!([projection, convolutions, tables].iter().all(|levels| *levels == relative));
        assert_eq!(named.thresholds.dead_zero_share, 0.5);
        assert!(policy.baseline.allow_worse && policy.baseline.allow_missing);
        let again: Policy = serde_json::from_value(serde_json::to_value(&policy).unwrap()).unwrap();
        assert_eq!(again, policy);
    }

    #[test]
    fn later_entries_win_key_by_key() {
        let policy = Policy::from_toml(
            "[[gate.tensors]]\npattern = '*_proj.weight'\nallow = 'weak'\nmax_shrink = 3\n\
             [[gate.tensors]]\npattern = '*.gate_proj.weight'\nallow = 'dying'\n",
        )
        .unwrap();
        let gate = policy.rules("layers.1.mlp.gate_proj.weight");
        assert_eq!((gate.allow, gate.max_shrink), (Verdict::Dying, 3.0));
        assert_eq!(policy.rules("layers.1.mlp.up_proj.weight").allow, Verdict::Weak);
    }

    #[test]
    fn a_share_of_healthy_tensors_admits_weak_ones_unless_told() {
        let policy = |text| Policy::from_toml(text).unwrap().allowed();
        assert_eq!(policy("[gate]\nmin_healthy = 0.5"), Verdict::Weak);
        assert_eq!(policy("[gate]\nmin_healthy = 0.5\nallow = 'healthy'"), Verdict::Healthy);
    }

    #[test]
    fn errors_name_line_and_key() {
        for (text, line, key) in [
            ("[gate]\n\nalow = 'weak'\n", "line 3", "alow"),
            ("[gate]\nallow = 'fine'\n", "line 2", "allow"),
            ("[gate]\nallow = 'corrupt'\n", "line 2", "corrupt tensors never pass"),
            ("[gate]\nmin_healthy = 90\n", "line 2", "90 is not a share from 0 to 1"),
            ("[gate]\nmax_dead = -1\n", "line 2", "max_dead"),
            ("[gate]\n\nignore = ['a', 'b[']\n", "line 3", "b["),
            ("[gate.baseline]\nmax_shrink = 0.5\n", "line 2", "max_shrink"),
            ("[gate.thresholds.projection]\nhealthy = 1e-7\n", "line 1", "the levels must fall"),
            ("[gate.thresholds.projection]\nhealthy = nan\n", "line 2", "is not a size"),
            ("[[gate.tensors]]\nallow = 'weak'\n", "line 1", "pattern"),
            ("[[gate.tensors]]\npattern = '*'\nweak = -1\n", "line 3", "weak"),
            ("[gates]\n", "line 1", "gates"),
            ("gate = \n", "line 1", "gate"),
        ] {
            let error = error(text);
            assert!(error.contains(line) && error.contains(key), "{text}\n{error}");
        }
    }
}
