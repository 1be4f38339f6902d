//! The polarizer: after any optimizer's step it pushes ternary weights away from zero, so that their scale cannot
//! vanish.

use ckpt_inspect::Checkpoint;
use ckpt_inspect::metadata::{HashableValue, Value, as_f64};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Optimizer, PART};
use crate::plain;
use crate::{Error, Gradients, Parameter, Parameters, Random, Result, Role};
use ckpt_convert::Object;

/// How the polarizer pushes a weight `w` with a `target` and a `strength`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
#[non_exhaustive]
pub enum Well {
    /// Repulsion from zero alone: where `|w| < target`, `w += sign(w) 2 strength (target - |w|)`.
    #[default]
    OneSided,
    /// `E = strength (|w| - target)^2` on both sides. It pulls every weight to +-target: the layer loses its zeros.
    TwoSided,
    /// A push of constant size: on gate, up and down, where `1e-9 < |w| < target / 2`, `w += sign(w) strength`. The
    /// "polarized step" of the original trainer of bitnet-student.
    Constant,
    /// A push in two pieces: where `|w| < target / 2`, `w += sign(w) 2 strength`; from there to `target`,
    /// `w += sign(w) (target - |w|) strength`. With its defaults a dead weight jumps to twenty times the target. The
    /// `PolarizedOptimizer` of the original trainer of bitnet-student.
    Piecewise,
}

impl TryFrom<String> for Well {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Ok(match name.as_str() {
            "one-sided" => Well::OneSided,
            "two-sided" => Well::TwoSided,
            // The others are what they were once called.
            "constant" | "seed-step" => Well::Constant,
            "piecewise" | "seed-optimizer" => Well::Piecewise,
            other => {
                return Err(format!(
                    "unknown well `{}`; choose one of one-sided, two-sided, constant, piecewise",
                    other.escape_debug()
                ));
            }
        })
    }
}

/// The target size of weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Target {
    /// This size.
    Absolute(f64),
    /// This share of the layer's mean|w| when training began or was resumed from elsewhere. Below one half, weights
    /// that were zero stay zero.
    Relative(f64),
}

impl Target {
    /// The mode under its name, and the number.
    fn named(self) -> (&'static str, f64) {
        match self {
            Target::Absolute(size) => ("absolute", size),
            Target::Relative(share) => ("relative", share),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Absolute(size) => write!(f, "{size}"),
            Target::Relative(share) => write!(f, "{share} of each layer's mean|w|"),
        }
    }
}

/// How weights are polarized.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Polarizer {
    /// How weights are pushed.
    pub well: Well,
    /// The target; by default a share of 0.25 for `OneSided` and `TwoSided`, 0.01 absolutely for the others.
    pub target: Option<Target>,
    /// How strongly; by default 0.05 for `OneSided` and `TwoSided`, 0.01 for `Constant`, 0.1 for `Piecewise`.
    pub strength: Option<f64>,
}

impl Polarizer {
    /// The same, with what it has by itself.
    pub(super) fn whole(&self) -> Self {
        Polarizer { well: self.well, target: Some(self.target()), strength: Some(self.strength()) }
    }

    /// Removes from `table`, a polarizer's, what its well has by itself, where the well `other` has something else.
    pub fn leave_defaults(table: &mut toml::Table, other: Well) {
        let given = toml::Value::Table(table.clone()).try_into::<Polarizer>();
        let Some(given) = given.ok().filter(|given| given.well != other) else { return };
        let usual = Polarizer { well: given.well, target: None, strength: None };
        if given.target == Some(usual.target()) {
            table.remove("target");
        }
        if given.strength == Some(usual.strength()) {
            table.remove("strength");
        }
    }

    fn target(&self) -> Target {
        self.target.unwrap_or(match self.well {
            Well::OneSided | Well::TwoSided => Target::Relative(0.25),
            Well::Constant | Well::Piecewise => Target::Absolute(0.01),
        })
    }

    fn strength(&self) -> f64 {
        self.strength.unwrap_or(match self.well {
            Well::OneSided | Well::TwoSided => 0.05,
            Well::Constant => 1e-2,
            Well::Piecewise => 0.1,
        })
    }

    /// Refuses numbers with which training is impossible.
    pub(super) fn check(&self) -> Result<()> {
        let strength = self.strength();
        let steep = matches!(self.well, Well::OneSided | Well::TwoSided) && 2.0 * strength > 1.0;
        if !(strength.is_finite() && strength >= 0.0) || steep {
            return Err(Error::settings(format!(
                "polarization strength {strength} must be from 0 to 0.5: beyond that, one step overshoots the target"
            )));
        }
        let (_, size) = self.target().named();
        if !(size.is_finite() && size >= 0.0) {
            return Err(Error::settings(format!("polarization target {size} must be a number of 0 or more")));
        }
        Ok(())
    }

    /// Whether it pushes weights of BitLinear layers alone.
    pub fn needs_bitlinear(&self) -> bool {
        matches!(self.well, Well::OneSided | Well::TwoSided)
    }

    /// Whether `parameter` is polarized.
    fn applies(&self, parameter: &Parameter) -> bool {
        match self.well {
            Well::Constant => parameter.role == Role::Mlp,
            Well::Piecewise => matches!(parameter.role, Role::Mlp | Role::Attention),
            Well::OneSided | Well::TwoSided => parameter.ternary,
        }
    }

    /// The weight `w` after a push; `random` gives the sign of a weight at exactly zero.
    fn push(&self, w: f32, target: f32, strength: f32, random: impl FnOnce() -> f32) -> f32 {
        let size = w.abs();
        let by = match self.well {
            Well::OneSided if size < target => 2.0 * strength * (target - size),
            Well::TwoSided => 2.0 * strength * (target - size),
            Well::Constant if size > 1e-9 && size < target / 2.0 => strength,
            Well::Piecewise if size < target / 2.0 => 2.0 * strength,
            Well::Piecewise if size < target => (target - size) * strength,
            _ => return w,
        };
        w + by * if w == 0.0 { random() } else { w.signum() }
    }
}

/// Any optimizer, with the polarizer after each of its steps.
pub struct Polarized {
    base: Box<dyn Optimizer>,
    polarizer: Polarizer,
    /// Target of each parameter that is polarized.
    targets: Vec<Option<f32>>,
    seed: u64,
}

impl Polarized {
    pub(super) fn new(
        base: Box<dyn Optimizer>,
        polarizer: Polarizer,
        parameters: &Parameters,
        seed: u64,
    ) -> Result<Self> {
        polarizer.check()?;
        let wanted = polarizer.target();
        let target = |p: &Parameter| match wanted {
            _ if !polarizer.applies(p) => None,
            Target::Absolute(size) => Some(size as f32),
            Target::Relative(share) => {
                let sum: f64 = p.values.iter().map(|w| f64::from(w.abs())).sum();
                Some((share * sum / p.values.len() as f64) as f32)
            }
        };
        let targets = parameters.0.iter().map(target).collect();
        Ok(Polarized { base, polarizer, targets, seed })
    }
}

impl Optimizer for Polarized {
    fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, factor: f64, step: u64) {
        self.base.step(parameters, gradients, factor, step);
        let (polarizer, seed) = (&self.polarizer, self.seed);
        let strength = polarizer.strength() as f32;
        parameters.0.par_iter_mut().zip(&self.targets).enumerate().for_each(|(at, (parameter, target))| {
            let Some(target) = *target else { return };
            parameter.values.par_chunks_mut(PART).enumerate().for_each(|(part, weights)| {
                for (i, w) in weights.iter_mut().enumerate() {
                    let key = [seed, step, at as u64, (part * PART + i) as u64];
                    *w = polarizer.push(*w, target, strength, || Random::new(&key).sign());
                }
            });
        });
    }

    /// The base optimizer's state, so that it loads anywhere, with `polarizer` next to it.
    fn state<'a>(&'a self, parameters: &Parameters, factor: f64) -> Object<'a> {
        let mut state = self.base.state(parameters, factor);
        if let Object::Dict(entries) = &mut state {
            let named = parameters.0.iter().zip(&self.targets);
            let targets = named.filter_map(|(p, t)| Some((p.name.as_str(), Value::F64(f64::from((*t)?)))));
            let (mode, number) = self.polarizer.target().named();
            let polarizer = plain([(mode, Value::F64(number)), ("targets", plain(targets))]);
            entries.push((HashableValue::String("polarizer".into()), Object::Plain(polarizer)));
        }
        state
    }

    /// The base optimizer's state, and the targets where they were chosen as this run's are. Before the choice was
    /// saved with them, targets that are all the same were absolute.
    fn load(&mut self, checkpoint: &Checkpoint, key: &str, parameters: &Parameters) -> Result<Vec<String>> {
        let mut notes = self.base.load(checkpoint, key, parameters)?;
        let saved = |name: &str| checkpoint.meta(&format!("{key}.polarizer.{name}"));
        let Some(Value::Dict(targets)) = saved("targets") else { return Ok(notes) };
        let absolute = saved("absolute").and_then(as_f64).map(Target::Absolute);
        let chosen = absolute.or_else(|| saved("relative").and_then(as_f64).map(Target::Relative));
        let wanted = self.polarizer.target();
        let path = checkpoint.path.display();
        let mut values = targets.values();
        let first = values.next();
        match chosen {
            Some(chosen) if chosen == wanted => {}
            Some(chosen) => {
                notes.push(format!(
                    "{path}: was polarized with the target {chosen}, but this run continues with {wanted}"
                ));
                return Ok(notes);
            }
            None if targets.len() > 1 && values.all(|v| Some(v) == first) => {
                notes.push(format!("{path}: was polarized with one target for all layers, but this run continues with {wanted}"));
                return Ok(notes);
            }
            None if matches!(wanted, Target::Absolute(_)) => {}
            None => notes.push(format!(
                "{path}: does not record which share of mean|w| its polarizer's targets are; they are kept, whatever share this run asks for"
            )),
        }
        if matches!(wanted, Target::Relative(_)) {
            for (target, parameter) in self.targets.iter_mut().zip(&parameters.0) {
                let name = HashableValue::String(parameter.name.clone());
                if let (Some(target), Some(Value::F64(saved))) = (target, targets.get(&name))
                    && saved.is_finite()
                    && *saved >= 0.0
                {
                    *target = *saved as f32;
                }
            }
        }
        Ok(notes)
    }

    fn ternary_decay(&self, parameters: &Parameters) -> Vec<(f64, f64)> {
        self.base.ternary_decay(parameters)
    }
}
