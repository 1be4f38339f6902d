//! The table of optimizers, and their settings as given by a file or by flags.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use toml::Table;

use super::{Optimizer, Polarized, Polarizer, adamw, muon, sgd, spin};
use crate::{Error, Parameters, Result};

/// The settings of one optimizer, and how to build it.
pub(super) trait Hyperparameters {
    /// Refuses numbers with which training is impossible.
    fn check(&self) -> Result<()>;

    /// The optimizer for `parameters`; `seed` names its random draws.
    fn build(&self, parameters: &Parameters, seed: u64) -> Box<dyn Optimizer>;

    /// Its learning rates.
    fn rates(&self) -> Vec<Rate>;

    /// Settings that need not be given, with what they are.
    fn chosen(&self) -> Vec<(&'static str, f64)>;

    /// Weight decay of parameters that no BitLinear uses, and of ternary weights.
    fn weight_decay(&self) -> (f64, f64);

    /// A warning on a setting that has less effect than its name says.
    fn warning(&self) -> Option<String> {
        None
    }
}

/// A learning rate of an optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rate {
    /// The key of the part of the state dict that it applies to; `None` for the whole.
    pub part: Option<&'static str>,
    /// Its name in a checkpoint's configuration.
    pub setting: &'static str,
    /// The rate.
    pub lr: f64,
}

impl Rate {
    /// The one learning rate of an optimizer.
    pub(super) fn whole(lr: f64) -> Vec<Self> {
        vec![Rate { part: None, setting: "learning_rate", lr }]
    }
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:literal: $method:ident($settings:ty);)*) => {
        /// An optimizer with its settings.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Method {
            $($(#[$doc])* $method($settings),)*
        }

        /// Names of the optimizers.
        pub const NAMES: [&str; [$($name),*].len()] = [$($name),*];

        impl Method {
            /// The optimizer of this name, with its own defaults.
            fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Method::$method(Default::default())),)*
                    _ => None,
                }
            }

            /// Its name, one of [`NAMES`].
            pub fn name(&self) -> &'static str {
                match self {
                    $(Method::$method(_) => $name,)*
                }
            }

            fn hyperparameters(&self) -> &dyn Hyperparameters {
                match self {
                    $(Method::$method(settings) => settings,)*
                }
            }

            /// The same optimizer, set as `table` says; keys that are not its own are ignored.
            fn set(&self, table: Table) -> Result<Self, toml::de::Error> {
                Ok(match self {
                    $(Method::$method(_) => Method::$method(table.try_into()?),)*
                })
            }

            fn table(&self) -> Result<Table, toml::ser::Error> {
                match self {
                    $(Method::$method(settings) => Table::try_from(settings),)*
                }
            }

            /// The keys of all optimizers' settings, with the default of the first that has it.
            pub(crate) fn defaults() -> BTreeMap<String, serde_json::Value> {
                let mut keys = BTreeMap::new();
                $(if let Ok(serde_json::Value::Object(settings)) = serde_json::to_value(<$settings>::default()) {
                    for (key, value) in settings {
                        keys.entry(key).or_insert(value);
                    }
                })*
                keys
            }
        }

        $(impl From<$settings> for Settings {
            fn from(settings: $settings) -> Self {
                Settings { method: Method::$method(settings), polarizer: None }
            }
        })*
    };
}

methods! {
    /// Adam with decoupled weight decay.
    "adamw": AdamW(adamw::Settings);
    /// Muon in its usual form on hidden matrices, AdamW on the rest.
    "muon": Muon(muon::Settings);
    /// Muon in the form of the original trainer of bitnet-student on all matrices, AdamW on the rest.
    "muon-adamw": MuonAdamW(muon::Cubic);
    /// Stochastic gradient descent.
    "sgd": Sgd(sgd::Settings);
    /// Sign descent in which weights near zero tunnel.
    "spin": Spin(spin::Settings);
}

/// Before the name of an optimizer that the polarizer follows.
const POLARIZED: &str = "polarized-";
const DEFAULT: &str = "polarized-adamw";

/// An optimizer with its settings, and the polarizer after each of its steps if there is one. A file has them in one
/// table: `name`, the optimizer's own keys, and `polarizer`. Keys that only other optimizers have are ignored.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// The optimizer.
    pub method: Method,
    /// The polarizer.
    pub polarizer: Option<Polarizer>,
}

impl Default for Settings {
    fn default() -> Self {
        let method = Method::AdamW(adamw::Settings::default());
        Settings { method, polarizer: Some(Polarizer::default()) }
    }
}

/// One of [`NAMES`], with `polarized-` in front to wrap it; with the defaults of that optimizer.
impl FromStr for Settings {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, polarizer) = match text.strip_prefix(POLARIZED) {
            Some(name) => (name, Some(Polarizer::default())),
            None => (text, None),
        };
        let method = Method::named(name).ok_or_else(|| {
            Error::settings(format!(
                "unknown optimizer `{}`; choose one of {}, optionally prefixed with `{POLARIZED}`",
                text.escape_debug(),
                NAMES.join(", ")
            ))
        })?;
        Ok(Settings { method, polarizer })
    }
}

impl Settings {
    /// The optimizer's name, with `polarized-` in front where the polarizer follows it.
    pub fn name(&self) -> String {
        format!("{}{}", if self.polarizer.is_some() { POLARIZED } else { "" }, self.method.name())
    }

    /// The optimizer for `parameters`. `seed` names its random draws.
    ///
    /// # Errors
    /// `Settings` for numbers with which training is impossible.
    pub fn build(&self, parameters: &Parameters, seed: u64) -> Result<Box<dyn Optimizer>> {
        let settings = self.method.hyperparameters();
        settings.check()?;
        let base = settings.build(parameters, seed);
        Ok(match &self.polarizer {
            Some(polarizer) => Box::new(Polarized::new(base, polarizer.clone(), parameters, seed)?),
            None => base,
        })
    }

    /// A warning on a setting that has less effect than its name says.
    pub(crate) fn warning(&self) -> Option<String> {
        self.method.hyperparameters().warning()
    }

    /// Its learning rates: a single one, or Muon's and AdamW's.
    pub fn rates(&self) -> Vec<Rate> {
        self.method.hyperparameters().rates()
    }

    /// Weight decay of parameters that no BitLinear uses, and of ternary weights.
    pub fn weight_decay(&self) -> (f64, f64) {
        self.method.hyperparameters().weight_decay()
    }

    /// Removes from `table` what the optimizer `former` has by itself, where the optimizer `other` has something else.
    pub fn leave_defaults(table: &mut Table, former: &str, other: &str) {
        let (Ok(former), Ok(other)) = (former.parse::<Settings>(), other.parse::<Settings>()) else { return };
        if former.method.name() == other.method.name() {
            return;
        }
        for (key, value) in former.method.hyperparameters().chosen() {
            if table.get(key).and_then(toml::Value::as_float) == Some(value) {
                table.remove(key);
            }
        }
    }

    /// The settings that `table` holds.
    ///
    /// # Errors
    /// `Settings` for an unknown name, keys that no optimizer has, and values of the wrong type.
    pub fn from_table(mut table: Table) -> Result<Self> {
        let wrong = |e: toml::de::Error| Error::settings(e.to_string().trim_end().replace('\n', " "));
        let mut settings: Settings = match table.remove("name") {
            None => DEFAULT.parse()?,
            Some(toml::Value::String(name)) => name.parse()?,
            Some(other) => {
                return Err(Error::settings(format!(
                    "an optimizer's name must be text, not {}",
                    other.type_str()
                )));
            }
        };
        if let Some(given) = table.remove("polarizer") {
            let polarizer: Polarizer = given.try_into().map_err(wrong)?;
            polarizer.check()?;
            settings.polarizer = settings.polarizer.map(|_| polarizer);
        }
        let known = Method::defaults();
        if let Some(key) = table.keys().find(|key| !known.contains_key(*key)) {
            let known: Vec<&str> = known.keys().map(String::as_str).collect();
            return Err(Error::settings(format!(
                "unknown optimizer setting `{}`; the settings are name, polarizer, {}",
                key.escape_debug(),
                known.join(", ")
            )));
        }
        // Those of another optimizer's settings that this one does not use have no effect; wrong ones are told all the same.
        for other in NAMES.iter().filter_map(|name| Method::named(name)) {
            other.set(table.clone()).map_err(wrong)?.hyperparameters().check()?;
        }
        settings.method = settings.method.set(table).map_err(wrong)?;
        Ok(settings)
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A JSON value accepts numbers in whatever form a JSON parser returns them; a TOML value does not.
        let given = serde_json::Map::deserialize(deserializer)?;
        let table = given.into_iter().filter_map(|(key, value)| Some((key, toml_of(value)?))).collect();
        Settings::from_table(table).map_err(D::Error::custom)
    }
}

/// `value` as TOML, which lacks null: keys that are null are left out.
fn toml_of(value: serde_json::Value) -> Option<toml::Value> {
    use serde_json::Value as Json;
    Some(match value {
        Json::Null => return None,
        Json::Bool(yes) => toml::Value::Boolean(yes),
        Json::Number(n) => match n.as_i64() {
            Some(n) => toml::Value::Integer(n),
            None => toml::Value::Float(n.as_f64()?),
        },
        Json::String(text) => toml::Value::String(text),
        Json::Array(items) => items.into_iter().filter_map(toml_of).collect::<Vec<_>>().into(),
        Json::Object(entries) => {
            let entries = entries.into_iter().filter_map(|(key, value)| Some((key, toml_of(value)?)));
            toml::Value::Table(entries.collect())
        }
    })
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut table = self.method.table().map_err(S::Error::custom)?;
        // What a later version takes by itself may be something else.
        for (key, value) in self.method.hyperparameters().chosen() {
            table.entry(key).or_insert(value.into());
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.name())?;
        for (key, value) in &table {
            map.serialize_entry(key, value)?;
        }
        if let Some(polarizer) = &self.polarizer {
            map.serialize_entry("polarizer", &polarizer.whole())?;
        }
        map.end()
    }
}

/// Refuses a number that is negative or NaN.
pub(super) fn at_least_zero(numbers: &[(&str, f64)]) -> Result<()> {
    match numbers.iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
        Some((name, value)) => Err(Error::settings(format!("{name} {value} must be a number of 0 or more"))),
        None => Ok(()),
    }
}

/// Refuses a learning rate, weight decays (of others and of ternary weights) or decay factors out of their ranges.
pub(super) fn in_range(lr: f64, decays: (f64, f64), momenta: &[(&str, f64)]) -> Result<()> {
    let numbers = [("lr", lr), ("weight_decay", decays.0), ("ternary_weight_decay", decays.1)];
    at_least_zero(&numbers)?;
    below_one(momenta)
}

/// Refuses a decay factor (beta or momentum) that is not at least 0 and below 1.
pub(super) fn below_one(momenta: &[(&str, f64)]) -> Result<()> {
    match momenta.iter().find(|(_, m)| !(0.0..1.0).contains(m)) {
        Some((name, value)) => Err(Error::settings(format!("{name} {value} must be at least 0 and below 1"))),
        None => Ok(()),
    }
}
