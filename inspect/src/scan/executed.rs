//! What one pickle imports and calls, and what its values are for others to load.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::archive::leads_outside;
use super::calls::{LATIN1, UTF8, byte_string, call, cut, known_at, makes_bytes};
use super::content::{Place, Scanner};
use super::endless::endless;
use super::forged::{array_interface, forged_dtype, named_arguments, state_of_other};
use super::globals::{Class, NATIVE, classify};
use super::hub::INSTANTIATORS;
use super::judged::harmless_calls;
use super::loaders::{of_mmengine, of_pyannote};
use super::pickles::Stream;
use super::shared::{called_classes, rebuilt, shared};
use super::text::{native_class, operator};
use super::uses::{
    COMPRESSED_WRAPPER, MEMMAP, NDARRAY_WRAPPER, STORAGE_INFO, gets_of_torch, handed_back, handed_on,
    is_getattr, loads, makes_tensor, only_reconstructs,
};
use super::{Finding, Rule};
use crate::Result;
use crate::format::torch::persistent_storage;
use crate::pickle::{Id, Node, Object, Pickle, Trace};

/// PyTorch's storages have numbers; a longer key is no storage's, whose bytes are then scanned.
const LONGEST_KEY: usize = 64;

/// The first call that uses an import, by its module and name.
type Called = HashMap<(Arc<str>, Arc<str>), Id>;

impl Scanner<'_> {
    /// Imports, calls, and what their arguments hold.
    pub(super) fn imports(&mut self, trace: &Trace<'_>, place: &Place, base: u64) -> Result<()> {
        let called = self.calls(trace, place, base)?;
        self.imported(trace, &called, place, base);
        self.changed(trace, place, base);
        self.held(trace, place, base)
    }

    /// What is called, and with what; of each import, the first call that uses it.
    fn calls(&mut self, trace: &Trace<'_>, place: &Place, base: u64) -> Result<Called> {
        let pickle = &trace.pickle;
        let mut called = Called::new();
        for &(offset, id) in &trace.seen.calls {
            let Node::Object(object) = pickle.node(id) else { continue };
            match pickle.node(object.callable) {
                Node::Global(g) => {
                    called.entry((g.module.clone(), g.name.clone())).or_insert(id);
                    if !object.entries.is_empty() && makes_tensor(&g.module, &g.name) {
                        let message = format!("sets items of the tensor {}", call(pickle, object));
                        self.find(Rule::ChangedTensor, place, Some(base + offset), message);
                    }
                    if let Some(named) = named_arguments(pickle, object) {
                        let message = format!("{named}, which may be an address in memory");
                        self.find(Rule::ForgedArray, place, Some(base + offset), message);
                    }
                    if let Some(of) = rebuilt(pickle, object) {
                        let message = format!("sets attributes of what {of} gives");
                        self.find(Rule::ChangedClass, place, Some(base + offset), message);
                    }
                    if let Some(endless) = endless(pickle, object) {
                        let message = format!("{endless}: {}", call(pickle, object));
                        self.find(Rule::Expansion, place, Some(base + offset), message);
                    }
                    self.arguments(trace, object, place, base, offset)?;
                }
                // The legacy form refers to classes so: ('module', class, file, source).
                Node::Persistent(pid) if is_class(pickle, *pid) => {}
                _ => {
                    let message = format!("calls something that it computes: {}", call(pickle, object));
                    self.find(Rule::ComputedCall, place, Some(base + offset), message);
                }
            }
        }
        Ok(called)
    }

    /// What is imported, with the call that uses it.
    fn imported(&mut self, trace: &Trace<'_>, called: &Called, place: &Place, base: u64) {
        let pickle = &trace.pickle;
        let handed_on = handed_on(trace);
        let gets = gets_of_torch(trace);
        let harmless = harmless_calls(trace);
        let memmaps = only_reconstructs(trace, MEMMAP);
        let called_classes = called_classes(trace);
        for &(offset, id) in &trace.seen.imports {
            let Node::Global(g) = pickle.node(id) else { continue };
            let (module, name) = (g.module.as_ref(), g.name.as_ref());
            let global = format!("{module}.{name}");
            let usage = called.get(&(g.module.clone(), g.name.clone())).map(|&id| match pickle.node(id) {
                Node::Object(object) => format!("would call {}", call(pickle, object)),
                _ => String::new(),
            });
            let what = usage.unwrap_or_else(|| format!("would import {}", cut(&global)));
            let class = match gets {
                Some(class) if is_getattr(module, name) && !handed_on.contains(&(module, name)) => class,
                _ if called_classes.contains(&(module, name)) && !self.is_allowed(module, name) => {
                    Class::Unknown
                }
                _ if memmaps && (module, name) == MEMMAP => Class::Harmless,
                _ if harmless.contains(&(module, name)) && !handed_on.contains(&(module, name)) => {
                    Class::Harmless
                }
                _ => self.class(module, name, place),
            };
            let (rule, message) = match class {
                Class::Harmless if handed_on.contains(&(module, name)) && !self.is_allowed(module, name) => {
                    let what = format!("passes {global} to something else, which may call it");
                    match loads(module, name) {
                        Some(why) => (Rule::DangerousImport, format!("{what}: {why}")),
                        None => (Rule::UnknownImport, what),
                    }
                }
                Class::Harmless => {
                    self.harmless(global);
                    continue;
                }
                Class::Dangerous(why) => (Rule::DangerousImport, format!("{what}: {why}")),
                Class::Unknown if module == "copyreg" && name.starts_with("_inverted_registry[") => {
                    (Rule::ExtensionCode, format!("imports by extension code: {}", cut(name)))
                }
                Class::Unknown => (Rule::UnknownImport, what),
            };
            self.findings.add(Finding {
                rule,
                severity: rule.severity(),
                member: place.member.clone(),
                offset: Some(base + offset),
                global: Some(cut(&global)),
                message,
                count: 1,
            });
        }
    }

    /// Classes and NumPy types whose attributes a state sets.
    fn changed(&mut self, trace: &Trace<'_>, place: &Place, base: u64) {
        let (pickle, builds) = (&trace.pickle, &trace.seen.builds);
        for &(offset, id) in builds {
            // The legacy form refers to classes by persistent ids.
            let class = match *pickle.node(id) {
                Node::Persistent(pid) => class_of(pickle, pid),
                _ => pickle.global(id).or_else(|| handed_back(pickle, id)),
            };
            if let Some((module, name)) = class {
                let message = format!("sets attributes of {}", cut(&format!("{module}.{name}")));
                self.find(Rule::ChangedClass, place, Some(base + offset), message);
            } else if let Some(what) = shared(pickle, id) {
                self.find(
                    Rule::ChangedClass,
                    place,
                    Some(base + offset),
                    format!("sets attributes of {what}"),
                );
            }
        }
        // Items that are put into it.
        for &index in trace.seen.changed.keys() {
            let id = Id::at(index as usize);
            let what = match pickle.node(id) {
                Node::Global(global) => cut(&format!("{}.{}", global.module, global.name)),
                Node::Persistent(pid) => {
                    let Some((module, name)) = class_of(pickle, *pid) else { continue };
                    cut(&format!("{module}.{name}"))
                }
                Node::Object(object) if !object.items.is_empty() || !object.entries.is_empty() => {
                    let Some(what) = shared(pickle, id) else { continue };
                    what.to_string()
                }
                _ => continue,
            };
            self.find(Rule::ChangedClass, place, Some(base), format!("puts items into {what}"));
        }
        for &(offset, id) in builds {
            if let Some(forged) = forged_dtype(pickle, id) {
                self.find(Rule::ForgedArray, place, Some(base + offset), forged.to_string());
            }
        }
        if let Some(forged) = state_of_other(pickle) {
            self.find(Rule::ForgedArray, place, Some(base), forged.to_string());
        }
        if let Some(key) = array_interface(pickle) {
            let message = format!("`{key}` says where in memory the values of an array are");
            self.find(Rule::ForgedArray, place, Some(base), message);
        }
    }

    /// What its values are for something else to load, call or read.
    fn held(&mut self, trace: &Trace<'_>, place: &Place, base: u64) -> Result<()> {
        let pickle = &trace.pickle;
        // The storages of `folder/data.pkl` are `folder/data/0` and so on.
        let name = place.member.rsplit('!').next().unwrap_or_default();
        let storages = name.strip_suffix(".pkl").filter(|stem| {
            let last = stem.rsplit('/').next();
            matches!(last, Some("data" | "constants"))
        });
        // PyTorch's interpreter for phones runs the operators that these name.
        let bytecode = matches!(name.rsplit('/').next(), Some("bytecode.pkl" | "mobile_debug_handles.pkl"));
        let mut outside: BTreeSet<&str> = BTreeSet::new();
        let mut sources: HashSet<u32> = HashSet::new();
        // Byte strings may contain pickles for something else to load.
        for index in 0..pickle.node_count() {
            match pickle.node(Id::at(index)) {
                // Lightning imports and calls what its checkpoints' hyperparameters name so.
                Node::Dict(entries) => {
                    let named = entries.iter().filter(|(key, _)| pickle.str(*key) == Some("_instantiator"));
                    for path in named.filter_map(|(_, value)| pickle.str(*value)) {
                        if !INSTANTIATORS.contains(&path) {
                            let message = format!("its hyperparameters have Lightning call {}", cut(path));
                            self.find(Rule::CustomCode, place, Some(base), message);
                        }
                    }
                    let described =
                        entries.iter().filter(|(key, _)| pickle.str(*key) == Some("architecture"));
                    for message in described.filter_map(|&(_, value)| of_pyannote(pickle, value)) {
                        self.find(Rule::CustomCode, place, Some(base), message);
                    }
                    // MMEngine's checkpoints have the configuration that made them.
                    let texts = entries.iter().filter(|(key, _)| pickle.str(*key) == Some("cfg"));
                    for &(_, value) in texts.filter(|(_, value)| sources.insert(value.index())) {
                        let text = pickle.str(value).filter(|text| text.contains('\n'));
                        if let Some(message) = text.and_then(of_mmengine) {
                            self.find(Rule::CustomCode, place, Some(base), message);
                        }
                    }
                }
                Node::Str(text) if bytecode => {
                    if let Some(what) = operator(text) {
                        self.find(Rule::DangerousScript, place, Some(base), what);
                    }
                }
                Node::Persistent(pid) => {
                    // torch compares the source of what this names with a file, and may write one: ('module', class, file, source).
                    if names_module(pickle, *pid) && !is_class(pickle, *pid) {
                        let message = "refers to a class that it computes".to_string();
                        self.find(Rule::ComputedCall, place, Some(base), message);
                    }
                    // ('storage', class, key, location, elements)
                    if let Some(folder) = storages
                        && let Some(&[kind, _, key, ..]) = pickle.sequence(*pid)
                        && let (Some("storage"), Some(key)) = (pickle.str(kind), pickle.str(key))
                        && key.len() <= LONGEST_KEY
                    {
                        let announced = persistent_storage(pickle, *pid)
                            .ok()
                            .and_then(|(_, dtype, count, _)| count.checked_mul(dtype.element_size()? as u64));
                        let most = self.storages.entry(format!("{folder}/{key}")).or_default();
                        *most = announced.unwrap_or(0).max(*most);
                    }
                }
                Node::Bytes(bytes) => {
                    self.embedded(bytes, place, base + pickle.offset_of(bytes).unwrap_or(0), false)?;
                }
                Node::Object(object) if pickle.global(object.callable) == Some(STORAGE_INFO) => {
                    let named = pickle.attribute(Id::at(index), "relative_path");
                    outside.extend(named.and_then(|id| pickle.str(id)).filter(|name| leads_outside(name)));
                }
                Node::Object(object) if makes_bytes(pickle, object) => {
                    if !self.may_trace(place) {
                        return Ok(());
                    }
                    let arguments = pickle.sequence(object.args).unwrap_or_default();
                    let len = |id: &Id| pickle.sequence(*id).map_or(1, <[Id]>::len) as u64;
                    self.spend(arguments.iter().map(len).sum());
                    if let Some(bytes) = byte_string(trace, Id::at(index), u64::MAX - 1, 0) {
                        self.spend(bytes.len() as u64 + 1);
                        self.embedded(&bytes, place, base, false)?;
                    }
                }
                _ => {}
            }
        }
        // A listing of a distributed checkpoint, whose parts PyTorch reads wherever they are.
        if let Some(first) = outside.first() {
            let more = if outside.len() > 1 {
                format!(", and {} more files", outside.len() - 1)
            } else {
                String::new()
            };
            let message =
                format!("PyTorch would read `{}`{more}, out of the checkpoint's folder", cut(first));
            self.find(Rule::PathOutside, place, Some(base), message);
        }
        Ok(())
    }

    fn class(&self, module: &str, name: &str, place: &Place) -> Class {
        // TorchScript's own unpickler maps these to types of the archive and to lists; nothing is imported.
        let own = || module == "__torch__" || module.starts_with("__torch__.");
        let of_script = || own() || (module == "torch.jit._pickle" && !name.contains('.'));
        // Those of libraries in C++ make something of the state that they are given.
        let path: Vec<&str> = module.split('.').chain(name.split('.')).collect();
        if own() && native_class(&path).is_some() {
            return Class::Dangerous(NATIVE);
        }
        if place.script && of_script() {
            return Class::Harmless;
        }
        let class = classify(module, name);
        match class != Class::Harmless && self.is_allowed(module, name) {
            true => Class::Harmless,
            false => class,
        }
    }

    /// Arguments of harmless callables that need not be harmless.
    fn arguments(
        &mut self,
        trace: &Trace<'_>,
        object: &Object,
        place: &Place,
        base: u64,
        called: u64,
    ) -> Result<()> {
        let (pickle, offset) = (&trace.pickle, base + called);
        let args = pickle.sequence(object.args).unwrap_or(&[]);
        match (pickle.global(object.callable), args) {
            (Some(("torch.storage", "_load_from_bytes")), args) => {
                if !self.may_trace(place) {
                    return Ok(());
                }
                let known = known_at(trace, object.args, called);
                let bytes = args.first().filter(|_| known).and_then(|&id| byte_string(trace, id, called, 0));
                match bytes {
                    Some(bytes) => {
                        self.spend(bytes.len() as u64 + 1);
                        self.embedded(&bytes, place, offset, true)?;
                        // Some readers keep a string of Python 2 as bytes, others decode it to text.
                        if let Some(text) = pickle.str(args[0]).filter(|text| !text.is_ascii()) {
                            self.embedded(text.as_bytes(), place, offset, true)?;
                        }
                    }
                    None => {
                        let message =
                            "torch.storage._load_from_bytes loads bytes that it computes".to_string();
                        self.find(Rule::OpaqueContent, place, Some(offset), message);
                    }
                }
            }
            (Some(("_codecs", "encode")), &[_, encoding, ..]) => {
                let encoding = pickle.str(encoding).unwrap_or("?");
                if !LATIN1.contains(&encoding) && !UTF8.contains(&encoding) {
                    let message = format!("encodes a string as {}", cut(encoding));
                    self.find(Rule::UnknownImport, place, Some(offset), message);
                }
            }
            (Some(NDARRAY_WRAPPER | COMPRESSED_WRAPPER), args) => {
                self.array_beside(pickle, object, args, place, offset);
            }
            _ => {}
        }
        Ok(())
    }

    /// joblib unpickles the file that this object names, `numpy.load(folder + filename, allow_pickle=True)`: one beside
    /// the pickle is scanned as the file it is (`joblib/numpy_pickle_compat.py`).
    fn array_beside(
        &mut self,
        pickle: &Pickle<'_>,
        object: &Object,
        args: &[Id],
        place: &Place,
        offset: u64,
    ) {
        let mut names: Vec<Id> = args.first().copied().into_iter().collect();
        let mut opaque = object.kwargs.is_some();
        for &state in &object.state {
            match pickle.node(state) {
                Node::Dict(entries) => {
                    let named = entries.iter().filter(|(key, _)| pickle.str(*key) == Some("filename"));
                    names.extend(named.map(|&(_, value)| value));
                    opaque |= entries.iter().any(|&(key, _)| pickle.str(key).is_none());
                }
                _ => opaque = true,
            }
        }
        for name in names {
            match pickle.str(name) {
                Some(name) if leads_outside(name) => {
                    let message = format!("joblib would unpickle the file `{}`", cut(name));
                    self.find(Rule::PathOutside, place, Some(offset), message);
                }
                // Of an archive's member, nothing is beside it.
                Some(name) if place.member.split('!').all(|part| matches!(part, "" | "inflated")) => {
                    self.beside.insert(name.to_string());
                }
                Some(_) => {}
                None => opaque = true,
            }
        }
        if opaque {
            let message = "joblib would unpickle a file whose name is computed".to_string();
            self.find(Rule::OpaqueContent, place, Some(offset), message);
        }
    }

    /// Scans `bytes`, which are part of the pickle at `offset`; `loaded` if they are known to be loaded.
    fn embedded(&mut self, bytes: &[u8], place: &Place, offset: u64, loaded: bool) -> Result<()> {
        let head = bytes.get(..4).unwrap_or_default();
        let like_one = matches!(head, [0x80, 2..=5, ..]) || head == crate::zip::LOCAL_HEADER;
        if !loaded && !like_one {
            return Ok(());
        }
        let Some(inner) = self.inside(place, &format!("bytes at {offset}"), Some(offset)) else {
            return Ok(());
        };
        if loaded {
            self.loaded(&bytes, &inner)?;
        } else if head == crate::zip::LOCAL_HEADER {
            self.zip(&bytes, &inner)?;
        } else {
            self.pickles(&bytes, &inner, Stream::Chance)?;
        }
        Ok(())
    }
}

/// Whether a persistent id is one of a module: ('module', class, file, source).
fn names_module(pickle: &Pickle<'_>, id: Id) -> bool {
    pickle.sequence(id).and_then(|parts| pickle.str(*parts.first()?)) == Some("module")
}

/// Whether a persistent id refers to a class that the pickle imports.
fn is_class(pickle: &Pickle<'_>, id: Id) -> bool {
    class_of(pickle, id).is_some()
}

/// The class that a persistent id refers to: ('module', class, file, source).
pub(super) fn class_of<'p>(pickle: &'p Pickle<'_>, id: Id) -> Option<(&'p str, &'p str)> {
    match pickle.sequence(id)? {
        &[kind, class, ..] if pickle.str(kind) == Some("module") => pickle.global(class),
        _ => None,
    }
}
