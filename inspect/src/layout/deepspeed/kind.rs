//! What DeepSpeed's files are called.

use std::collections::{HashMap, HashSet};

use crate::{Damage, DamageKind};

/// What a file holds, by its name; the numbers are ranks of data and of model parallelism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// The module: whole, or with ZeRO-3 one of each rank (`divided`), with placeholders.
    Model { dp: usize, mp: usize, divided: bool },
    /// An optimizer's partition, with the type that its name has.
    Optimizer { dp: usize, mp: usize, dtype: Option<&'static str> },
    /// A layer of a pipeline.
    Layer { layer: usize, mp: usize },
    /// An expert of a layer that has several; older versions do not count those layers.
    Expert { layer: Option<usize>, expert: usize, mp: usize },
    /// The optimizer of the experts that a rank of expert parallelism has.
    Experts { rank: usize, mp: usize },
}

impl Kind {
    pub fn of(name: &str) -> Option<Kind> {
        let stem = name.strip_suffix(".pt")?;
        let ranks = |text: &str| {
            let (dp, mp) = text.strip_prefix("zero_pp_rank_")?.split_once("_mp_rank_")?;
            Some((number(dp)?, number(mp)?))
        };
        if let Some(rest) = stem.strip_suffix("_optim_states") {
            let typed = |dtype| Some((Some(dtype), rest.strip_prefix(dtype)?));
            let (dtype, rest) = ["bf16_", "fp16_"].into_iter().find_map(typed).unwrap_or((None, rest));
            return match ranks(rest) {
                Some((dp, mp)) => Some(Kind::Optimizer { dp, mp, dtype }),
                None => {
                    let (rank, mp) = rest.strip_prefix("expp_rank_")?.split_once("_mp_rank_")?;
                    Some(Kind::Experts { rank: number(rank)?, mp: number(mp)? })
                }
            };
        }
        if let Some(rest) = stem.strip_suffix("_model_states") {
            if let Some((dp, mp)) = ranks(rest) {
                return Some(Kind::Model { dp, mp, divided: true });
            }
            return match rest.strip_prefix("mp_rank_") {
                Some(mp) => Some(Kind::Model { dp: 0, mp: number(mp)?, divided: false }),
                None => Kind::expert(rest),
            };
        }
        let layer = stem.strip_suffix("-model_states")?.strip_prefix("layer_")?;
        let (layer, mp) = layer.split_once("-model_").unwrap_or((layer, "0"));
        Some(Kind::Layer { layer: number(layer)?, mp: number(mp)? })
    }

    /// An expert, by what its file is called: `layer_3_expert_7_mp_rank_00`.
    fn expert(stem: &str) -> Option<Kind> {
        let (stem, mp) = stem.split_once("_mp_rank_")?;
        let (layer, expert) = match stem.strip_prefix("layer_") {
            Some(rest) => rest.split_once("_expert_").map(|(layer, expert)| (Some(layer), expert))?,
            None => (None, stem.strip_prefix("expert_")?),
        };
        let layer = match layer {
            Some(layer) => Some(number(layer)?),
            None => None,
        };
        Some(Kind::Expert { layer, expert: number(expert)?, mp: number(mp)? })
    }

    /// What it is a part of, however its file is called.
    pub fn place(self) -> Kind {
        match self {
            Kind::Model { dp, mp, .. } => Kind::Model { dp, mp, divided: false },
            Kind::Optimizer { dp, mp, .. } => Kind::Optimizer { dp, mp, dtype: None },
            Kind::Layer { .. } | Kind::Expert { .. } | Kind::Experts { .. } => self,
        }
    }

    /// How its file is called, whichever rank it is of.
    fn form(self) -> Kind {
        match self {
            Kind::Model { divided, .. } => Kind::Model { dp: 0, mp: 0, divided },
            Kind::Optimizer { dtype, .. } => Kind::Optimizer { dp: 0, mp: 0, dtype },
            Kind::Layer { .. } => Kind::Layer { layer: 0, mp: 0 },
            Kind::Expert { .. } => Kind::Expert { layer: None, expert: 0, mp: 0 },
            Kind::Experts { .. } => Kind::Experts { rank: 0, mp: 0 },
        }
    }

    /// Its rank of model parallelism, where the ranks' files are joined.
    pub fn model_parallel(self) -> Option<usize> {
        match self {
            Kind::Model { mp, .. } | Kind::Optimizer { mp, .. } => Some(mp),
            Kind::Layer { .. } | Kind::Expert { .. } | Kind::Experts { .. } => None,
        }
    }
}

/// Which of the files are not used, because another one is of the same rank: that which is called like most of the
/// others is. Tells of each.
pub(super) fn superseded<'n>(names: &'n [String], faults: &mut Vec<Damage>) -> HashSet<&'n str> {
    let mut forms: HashMap<Kind, usize> = HashMap::new();
    let mut places: HashMap<Kind, Vec<(Kind, &str)>> = HashMap::new();
    for (kind, name) in names.iter().filter_map(|name| Some((Kind::of(name)?, name.as_str()))) {
        *forms.entry(kind.form()).or_default() += 1;
        places.entry(kind.place()).or_default().push((kind, name));
    }
    let mut unused = HashSet::new();
    for kind in names.iter().filter_map(|name| Some(Kind::of(name)?.place())) {
        let Some(files) = places.remove(&kind).filter(|files| files.len() > 1) else { continue };
        // The first of those that are as frequent.
        let frequent = |(kind, _): &&(Kind, &str)| forms[&kind.form()];
        let Some(&(_, used)) = files.iter().rev().max_by_key(frequent) else { continue };
        for (_, other) in files.into_iter().filter(|(_, name)| *name != used) {
            let (one, two) = (used.escape_debug(), other.escape_debug());
            let what = format!("{one} and {two} are the same rank's by their names: the latter is not used");
            faults.push(Damage::new(DamageKind::Inconsistent, what));
            unused.insert(other);
        }
    }
    unused
}

/// A number in a file's name.
pub(super) fn number(text: &str) -> Option<usize> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}
