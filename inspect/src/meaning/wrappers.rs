//! Names without what training and saving wrapped around a network, so that one weight is found under all of its names:
//! `module.` of DataParallel, `_orig_mod.` of `torch.compile`, Lightning's `model.`, the key of a state dict, an
//! `nn.Module` that was pickled whole.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::group::{STATE_DICTS, in_application};

/// Parts that stand before the names of a network that it wraps, several of them one after another.
const BEFORE: [&str; 4] = ["model", "module", "_forward_module", "base_model"];

/// Parts that may stand anywhere in a name: wrappers of single modules, and where an `nn.Module` keeps what it holds.
const INSIDE: [&str; 7] = [
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_modules",
    "_parameters",
    "_buffers",
];

/// Wrappers around copies that follow the network itself.
const AVERAGES: [&str; 6] = ["ema", "ema_state_dict", "model_ema", "ema_model", "averaged_model", "teacher"];

/// `name` without wrappers and the keys of state dicts; a wrapper that nothing follows stays.
pub fn unwrapped(name: &str) -> Cow<'_, str> {
    let inner = in_application(name).filter(|inner| !inner.is_empty()).unwrap_or(name);
    without(inner, |key| STATE_DICTS.contains(&key) || AVERAGES.contains(&key))
}

/// `name` without what is wrapped around one network, but with the key of a state dict and what marks a copy of a network.
pub(super) fn without_wrappers(name: &str) -> Cow<'_, str> {
    without(name, |_| false)
}

/// `name` without wrappers, nor before it what else `is_before` a network's own names.
fn without(name: &str, is_before: impl Fn(&str) -> bool) -> Cow<'_, str> {
    let mut rest = name;
    while let Some((first, after)) = rest.split_once('.')
        && !after.is_empty()
        && (BEFORE.contains(&first) || INSIDE.contains(&first) || is_before(first))
    {
        rest = after;
    }
    let (within, last) = rest.rsplit_once('.').unwrap_or(("", rest));
    if !within.split('.').any(|part| INSIDE.contains(&part)) {
        return Cow::Borrowed(rest);
    }
    let kept = within.split('.').filter(|part| !INSIDE.contains(part));
    Cow::Owned(kept.chain([last]).collect::<Vec<_>>().join("."))
}

/// Whether `name` is wrapped as a copy that follows the network itself.
pub(super) fn is_average(name: &str) -> bool {
    let wrapped = name.len() - unwrapped(name).len();
    name.split('.')
        .scan(0, |at, part| {
            let start = *at;
            *at += part.len() + 1;
            Some((start, part))
        })
        .take_while(|(start, _)| *start < wrapped)
        .any(|(_, part)| AVERAGES.contains(&part))
}

/// For each of `names`, which are one checkpoint's, what the same weight is called in any other: what `canonical` makes of
/// it without wrappers. Where several would be called the same, the one that is no moving average is; if that is not one
/// alone, all keep their names.
pub fn shared<'n>(
    names: impl Iterator<Item = &'n str> + Clone,
    canonical: &dyn Fn(&str) -> String,
) -> Vec<Cow<'n, str>> {
    let bare = |name: &str| canonical(&unwrapped(name));
    // How many are called so, and how many of them are no averages.
    let mut uses: HashMap<String, (usize, usize)> = HashMap::new();
    for name in names.clone() {
        let uses = uses.entry(bare(name)).or_default();
        uses.0 += 1;
        uses.1 += usize::from(!is_average(name));
    }
    let called = |name: &'n str| {
        let bare = bare(name);
        match uses[&bare] {
            (1, _) => Cow::Owned(bare),
            (_, 1) if !is_average(name) => Cow::Owned(bare),
            _ => Cow::Borrowed(name),
        }
    };
    names.map(called).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_go_in_any_order() {
        for name in [
            "encoder.fc.weight",
            "model.encoder.fc.weight",
            "module.encoder.fc.weight",
            "state_dict.module.encoder.fc.weight",
            "state_dict.model.encoder.fc.weight",
            "model._orig_mod.encoder.fc.weight",
            "_orig_mod.module.encoder._checkpoint_wrapped_module.fc.weight",
            "_forward_module.model.encoder._fsdp_wrapped_module.fc.weight",
            "base_model.model.encoder.fc.weight",
            "module.encoder.module.fc.weight",
            "app.model.model.encoder.fc.weight",
            "_modules.encoder._modules.fc._parameters.weight",
        ] {
            assert_eq!(unwrapped(name), "encoder.fc.weight", "{name}");
        }
        for name in ["weight", "model", "net.", "encoder.model.weight"] {
            assert_eq!(unwrapped(name), name);
        }
    }

    #[test]
    fn a_moving_average_gives_way_and_two_networks_keep_their_names() {
        let names = ["model.fc.weight", "ema.fc.weight", "generator.b", "discriminator.b", "step"];
        let called = shared(names.into_iter(), &str::to_string);
        assert_eq!(called, ["fc.weight", "ema.fc.weight", "generator.b", "discriminator.b", "step"]);
    }
}
