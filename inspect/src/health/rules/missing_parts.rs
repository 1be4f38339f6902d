//! What is missing within a layer, as the other modules of its kind show: an expert or a part of one, the output of
//! attention whose queries, keys and values are there, the router of experts. This holds however many kinds of layers a
//! network has.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Network;
use crate::meaning::role::{is_essential, of_expert};
use crate::tensor::Group;

/// Modules that must agree.
const AGREE: usize = 2;
/// Experts that make a promise.
const EXPERTS: usize = 3;
/// What modules call their matrix.
const WEIGHT: &str = "weight";
/// What configurations call the number of experts.
const COUNTS: [&str; 4] = ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"];

/// The names of what is missing.
pub(super) fn missing_parts(network: &Network<'_>) -> Vec<String> {
    let names: Vec<&str> = network
        .record
        .tensors
        .iter()
        .filter(|t| t.group == Group::Weights)
        .map(|t| t.name.as_str())
        .collect();
    let mut missing = of_modules(&names);
    missing.extend(of_pairs(&names));
    let config = &network.record.model.config;
    let promised = COUNTS.iter().find_map(|key| config.get(*key)?.as_u64());
    missing.extend(of_experts(&names, promised));
    missing
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
}

/// Modules by what they have.
type Alike<'n> = BTreeMap<&'n BTreeSet<&'n str>, Vec<&'n str>>;

/// Children that one module is without, of which all others have it that have everything else that it has.
fn of_modules(names: &[&str]) -> Vec<String> {
    let mut children: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in names {
        let mut inner = *name;
        while let Some((module, child)) = inner.rsplit_once('.') {
            children.entry(module).or_default().insert(child);
            inner = module;
        }
    }
    let mut called: HashMap<(&str, bool), Alike<'_>> = HashMap::new();
    for (module, own) in &children {
        let (before, name) = module.rsplit_once('.').unwrap_or(("", module));
        let kind = match is_number(name) {
            // Blocks, in modules such as `layer1` and `layer2`.
            true => {
                before.rsplit('.').next().unwrap_or(before).trim_end_matches(|c: char| c.is_ascii_digit())
            }
            false => name,
        };
        called.entry((kind, is_number(name))).or_default().entry(own).or_default().push(module);
    }
    let mut missing = Vec::new();
    for ((_, are_blocks), kinds) in called {
        for (own, modules) in kinds.iter().filter(|(_, modules)| modules.len() == 1) {
            let more: Vec<(&&BTreeSet<&str>, &Vec<&str>)> =
                kinds.iter().filter(|(other, _)| other.len() > own.len() && other.is_superset(own)).collect();
            // Where all others have several things more, it may be of another kind.
            let [(first, _), rest @ ..] = more.as_slice() else { continue };
            let common =
                |child: &&&str| !own.contains(**child) && rest.iter().all(|(k, _)| k.contains(**child));
            let absent: Vec<&&str> = first.iter().filter(common).collect();
            let agree: usize = more.iter().map(|(_, modules)| modules.len()).sum();
            let agree = agree >= AGREE || absent.first().is_some_and(|child| is_of_three(own, child));
            if let ([child], true) = (absent.as_slice(), agree)
                && if are_blocks { norms(own, child) } else { needs(own, child) }
            {
                let field = if **child == WEIGHT { String::new() } else { format!(".{WEIGHT}") };
                missing.push(format!("{}.{child}{field}", modules[0]));
            }
        }
    }
    missing.sort();
    missing
}

/// Whether a block that has `own` has what comes behind the convolution `child` alone.
fn norms(own: &BTreeSet<&str>, child: &str) -> bool {
    let number = child.strip_prefix("conv").filter(|number| is_number(number));
    number.is_some_and(|number| own.contains(format!("bn{number}").as_str()))
}

/// Two tensors of a module of which neither is any use without the other, by what their names have in that place. Where
/// `kept_apart` is set, there are modules that have one of them alone, and others in the file must have both.
struct Twins {
    names: [&'static str; 2],
    kept_apart: bool,
}

impl Twins {
    const fn new(names: [&'static str; 2], kept_apart: bool) -> Self {
        Twins { names, kept_apart }
    }
}

static TWINS: [Twins; 8] = [
    // https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html and its kin
    Twins::new([".weight_ih_l", ".weight_hh_l"], false),
    Twins::new([".weight_ih", ".weight_hh"], false),
    Twins::new([".parametrizations.weight.original0", ".parametrizations.weight.original1"], false),
    Twins::new([".running_mean", ".running_var"], true),
    Twins::new([".weight_g", ".weight_v"], true),
    Twins::new([".lora_A.", ".lora_B."], true),
    Twins::new([".lora_down.", ".lora_up."], true),
    Twins::new([".lora_embedding_A.", ".lora_embedding_B."], true),
];

/// What each of their names has one of.
const MARKS: [&str; 4] = ["weight_", "running_", "lora_", "original"];

/// Tensors whose twin is there.
fn of_pairs(names: &[&str]) -> Vec<String> {
    let mut all: Vec<&str> = names.to_vec();
    all.sort_unstable();
    all.dedup();
    let is_there = |name: &str| all.binary_search(&name).is_ok();
    // The module itself may be what was saved. Most names have nothing that any of the twins is called.
    let dotted: Vec<String> = all
        .iter()
        .filter(|name| MARKS.iter().any(|mark| name.contains(mark)))
        .map(|n| format!(".{n}"))
        .collect();
    let mut missing = Vec::new();
    for Twins { names: [one, other], kept_apart } in &TWINS {
        let mut absent = Vec::new();
        let mut both = 0;
        for name in &dotted {
            for (here, there) in [(one, other), (other, one)] {
                let Some(at) = name.rfind(here).filter(|at| follows(&name[at + here.len()..], here)) else {
                    continue;
                };
                let twin = format!("{}{there}{}", &name[..at], &name[at + here.len()..]);
                let twin = &twin[1..];
                // Pruned or normalized, a weight has more behind its name.
                let bare = twin.strip_suffix("_orig").unwrap_or(twin);
                let forms = ["", "_raw", "_orig", "_v"].map(|more| format!("{bare}{more}"));
                // What drops a recurrent layer's weights keeps them above it.
                let above = format!("{}_raw", twin.replacen(".module.", ".", 1));
                match forms.iter().chain([&above]).any(|form| is_there(form)) {
                    true => both += 1,
                    false => absent.push(twin.to_string()),
                }
            }
        }
        if !kept_apart || both >= 2 * AGREE {
            missing.extend(absent);
        }
    }
    missing
}

/// Whether `rest` may follow the part of a name: nothing behind a whole name, the number of a layer, or more parts.
fn follows(rest: &str, part: &str) -> bool {
    match part.ends_with('.') {
        // The bias of an adapter is its second factor's.
        true => !rest.ends_with("bias"),
        false if part.ends_with("_l") => {
            let behind = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            behind.len() < rest.len() && ["", "_reverse", "_orig", "_reverse_orig"].contains(&behind)
        }
        false => rest.is_empty(),
    }
}

/// What attention is called that its input goes through, each kind of names apart.
const ATTENTION: [[&str; 3]; 4] =
    [["q_proj", "k_proj", "v_proj"], ["query", "key", "value"], ["q", "k", "v"], ["to_q", "to_k", "to_v"]];

/// Whether `child` is one of queries, keys and values, of which `own` has the others: none is any use without them.
fn is_of_three(own: &BTreeSet<&str>, child: &str) -> bool {
    let of = |three: &&[&str; 3]| three.contains(&child);
    ATTENTION
        .iter()
        .find(of)
        .is_some_and(|three| three.iter().all(|name| *name == child || own.contains(name)))
}

/// Whether a module that has `own` cannot do without `child`.
fn needs(own: &BTreeSet<&str>, child: &str) -> bool {
    let has = |names: &[&str]| names.iter().filter(|name| own.contains(**name)).count();
    match child {
        "gate" | "router" => own.contains("experts"),
        "proj" => own.contains("qkv"),
        _ if is_of_three(own, child) => true,
        "q" | "k" | "v" | "o" => has(&["q", "k", "v", "o"]) >= 2,
        // A bias alone is told elsewhere.
        WEIGHT => own.iter().any(|field| *field != "bias" && field.contains("bias")),
        _ => own.len() >= 2 && is_essential(&format!("{child}.{WEIGHT}")),
    }
}

/// Experts between others, and what one of them is without that the others of its layer have; and the last ones of the one
/// layer that has fewer, or of any that has fewer than are `promised` and most have.
fn of_experts(names: &[&str], promised: Option<u64>) -> Vec<String> {
    let mut layers: BTreeMap<&str, BTreeMap<u64, BTreeSet<&str>>> = BTreeMap::new();
    for name in names {
        let Some(at) = name.find("experts.").map(|at| at + "experts.".len()) else { continue };
        // Called by their number alone, or by a word before it.
        let Some((own, after)) = name[at..].split_once('.') else { continue };
        let word = of_expert(own).map_or("", |(word, _)| word);
        let before = &name[..at + word.len()];
        if let Ok(number) = own[word.len()..].parse() {
            layers.entry(before).or_default().entry(number).or_default().insert(after);
        }
    }
    let mut missing = Vec::new();
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for experts in layers.values() {
        *counts.entry(experts.last_key_value().map_or(0, |(last, _)| last + 1)).or_default() += 1;
    }
    let most = counts.iter().max_by_key(|(_, times)| **times).map(|(count, times)| (*count, *times));
    for (before, experts) in &layers {
        let mut kinds: BTreeMap<&BTreeSet<&str>, usize> = BTreeMap::new();
        experts.values().for_each(|kind| *kinds.entry(kind).or_default() += 1);
        let Some((usual, times)) = kinds.iter().max_by_key(|(_, times)| **times) else { continue };
        let (Some((&first, _)), Some((&last, _))) = (experts.first_key_value(), experts.last_key_value())
        else {
            continue;
        };
        let agree = experts.len() >= EXPERTS && times * 4 >= experts.len() * 3;
        let of_three = experts.len() == EXPERTS && *times == AGREE;
        if !agree && !of_three {
            continue;
        }
        for (number, own) in experts.iter().filter(|(_, own)| own.is_subset(usual)) {
            missing.extend(usual.difference(own).map(|after| format!("{before}{number}.{after}")));
        }
        // A name may announce any number.
        if last - first < 2 * experts.len() as u64 {
            let holes = (first..last).filter(|number| !experts.contains_key(number));
            missing.extend(holes.map(|number| format!("{before}{number}")));
        }
        let alone = |count: u64| counts.get(&count) == Some(&1) && counts.len() == 2;
        // As many as are promised, if another layer has them.
        let most = match promised.and_then(|count| Some((count, *counts.get(&count)?))) {
            Some((count, times)) if last + 1 < count => Some((count, times.max(AGREE))),
            _ => most,
        };
        if let Some((count, times)) = most
            && ((times > AGREE && alone(last + 1)) || (times >= AGREE && promised == Some(count)))
            && (last + 1..count).count() <= experts.len()
        {
            missing.extend((last + 1..count).map(|number| format!("{before}{number}")));
        }
    }
    missing
}
