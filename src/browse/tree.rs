//! The rows of the tensor list: modules that fold, or a flat list; filtered, searched and sorted.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use ckpt_inspect::health::measures::{Measure, Place, shown_in};
use ckpt_inspect::{CheckpointRecord, Group, TensorRecord, Verdict};

use super::order::{Order, Sorting};
use super::search::{Found, Query};

/// The deepest level; the rest of a deeper name is one part, because a file may choose names of any depth.
const DEEPEST: usize = 24;
/// Rows that may be unfolded at first.
const FIRST_ROWS: usize = 24;

/// A line of the list.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Number of modules around it.
    pub depth: usize,
    /// The text that is shown, as in the file.
    pub label: String,
    /// The item that it shows.
    pub kind: Kind,
    /// Tensors.
    pub count: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// The worst verdict among them.
    pub verdict: Option<Verdict>,
    /// The measure that rows are sorted by, if they are: the tensor's, or the smallest among those that are judged.
    pub least: Option<f64>,
    /// Characters of the label that the search matched, in order.
    pub hits: Vec<usize>,
}

/// The item that a row shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// The tensors whose names begin with `path`.
    Module { path: String, open: bool },
    /// The tensor of this index in the record.
    Tensor(usize),
}

/// Order of the rows. Modules are ordered among their siblings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    File,
    Name,
    Shape,
    Dtype,
    Size,
    Measure(&'static Measure),
    Verdict,
}

impl Sorting for Sort {
    fn next(self) -> Sort {
        let measures = shown_in(Place::Narrow).map(Sort::Measure);
        let first = [Sort::File, Sort::Name, Sort::Shape, Sort::Dtype, Sort::Size];
        let mut all = first.into_iter().chain(measures).chain([Sort::Verdict]);
        all.find(|s| *s == self);
        all.next().unwrap_or_default()
    }

    fn name(self) -> &'static str {
        match self {
            Sort::File => "file order",
            Sort::Name => "name",
            Sort::Shape => "shape",
            Sort::Dtype => "dtype",
            Sort::Size => "size",
            Sort::Measure(measure) => measure.heading,
            Sort::Verdict => "verdict",
        }
    }
}

impl Sort {
    fn measure(self) -> Option<&'static Measure> {
        match self {
            Sort::Measure(measure) => Some(measure),
            _ => None,
        }
    }

    /// Largest shapes and sizes, smallest measures and worst verdicts come first.
    fn compare(self, tensors: &[TensorRecord], a: &Row, b: &Row) -> Ordering {
        let one = |row: &Row| match row.kind {
            Kind::Tensor(i) => Some(&tensors[i]),
            Kind::Module { .. } => None,
        };
        let numel = |row: &Row| one(row).map(|t| t.shape.iter().fold(1, |n: u64, &d| n.saturating_mul(d)));
        match self {
            Sort::File => Ordering::Equal,
            Sort::Name => natural(&a.label).cmp(&natural(&b.label)),
            Sort::Shape => numel(b).cmp(&numel(a)),
            Sort::Dtype => one(a).map(|t| t.dtype.name()).cmp(&one(b).map(|t| t.dtype.name())),
            Sort::Size => b.bytes.cmp(&a.bytes),
            Sort::Measure(_) => {
                let least = |row: &Row| row.least.unwrap_or(f64::INFINITY);
                least(a).total_cmp(&least(b))
            }
            Sort::Verdict => b.verdict.cmp(&a.verdict),
        }
    }
}

/// Numbers in names by value: layer 2 before layer 10.
pub fn natural(name: &str) -> Vec<(u64, &str)> {
    name.split('.').map(|part| (part.parse().unwrap_or(u64::MAX), part)).collect()
}

/// How to build the list.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub order: Order<Sort>,
    /// Tensors alone, without modules.
    pub flat: bool,
    pub group: Option<Group>,
}

/// The list of `record`'s tensors. Modules whose path is in `unfolded` show what is in them; while a search is on, the
/// list is flat and the best matches come first.
pub fn rows(record: &CheckpointRecord, listing: &Listing, unfolded: &HashSet<String>) -> Vec<Row> {
    let kept = record.tensors.iter().enumerate().filter(|(_, t)| {
        listing.order.verdict.keeps(t.verdict) && listing.group.is_none_or(|group| t.group == group)
    });
    let mut rows: Vec<Row> = if !listing.order.query.is_empty() {
        search(kept, listing, &flat_names(record))
    } else if listing.flat {
        let names = flat_names(record);
        kept.map(|(i, t)| tensor_row(i, t, names[i].to_string(), 0, listing)).collect()
    } else {
        let tree = Tree::new(kept, listing.order.sort.measure());
        let mut rows = Vec::new();
        tree.list(0, 0, &record.tensors, listing, unfolded, &mut rows);
        return rows;
    };
    sort(&mut rows, &record.tensors, &listing.order);
    rows
}

fn sort(rows: &mut [Row], tensors: &[TensorRecord], order: &Order<Sort>) {
    rows.sort_by(|a, b| order.sort.compare(tensors, a, b));
    if order.reversed {
        rows.reverse();
    }
}

/// Names of tensors in a list without modules: without the key of the state dict that they were saved in, unless only the
/// key distinguishes two of them.
fn flat_names(record: &CheckpointRecord) -> Vec<&str> {
    let mut times: HashMap<&str, usize> = HashMap::new();
    for tensor in &record.tensors {
        *times.entry(record.own_name(&tensor.name)).or_default() += 1;
    }
    let is_shared = |t: &TensorRecord| times[record.own_name(&t.name)] > 1;
    record
        .tensors
        .iter()
        .map(|t| if is_shared(t) { t.name.as_str() } else { record.own_name(&t.name) })
        .collect()
}

fn search<'t>(
    tensors: impl Iterator<Item = (usize, &'t TensorRecord)>,
    listing: &Listing,
    names: &[&str],
) -> Vec<Row> {
    let query = Query::new(&listing.order.query);
    let mut found: Vec<_> =
        tensors.filter_map(|(i, tensor)| query.find(names[i]).map(|found| (found, i, tensor))).collect();
    found.sort_by_key(|(found, ..)| std::cmp::Reverse(found.score));
    let row = |(found, i, tensor): (Found, usize, &TensorRecord)| Row {
        hits: found.hits,
        ..tensor_row(i, tensor, names[i].to_string(), 0, listing)
    };
    found.into_iter().map(row).collect()
}

fn tensor_row(i: usize, tensor: &TensorRecord, label: String, depth: usize, listing: &Listing) -> Row {
    Row {
        depth,
        label,
        kind: Kind::Tensor(i),
        count: 1,
        bytes: tensor.bytes,
        verdict: tensor.verdict,
        least: listing.order.sort.measure().and_then(|m| m.real(tensor)),
        hits: Vec::new(),
    }
}

#[derive(Default)]
struct Node<'t> {
    part: &'t str,
    path: &'t str,
    children: Vec<usize>,
    index: HashMap<&'t str, usize>,
    tensor: Option<usize>,
    count: usize,
    bytes: u64,
    verdict: Option<Verdict>,
    least: Option<f64>,
}

struct Tree<'t> {
    nodes: Vec<Node<'t>>,
    measure: Option<&'static Measure>,
}

impl<'t> Tree<'t> {
    fn new(
        tensors: impl Iterator<Item = (usize, &'t TensorRecord)>,
        measure: Option<&'static Measure>,
    ) -> Self {
        let mut tree = Tree { nodes: vec![Node::default()], measure };
        for (i, tensor) in tensors {
            tree.add(i, tensor);
        }
        tree
    }

    fn add(&mut self, i: usize, tensor: &'t TensorRecord) {
        let name = tensor.name.as_str();
        let judged = tensor.verdict.and(self.measure).and_then(|m| m.real(tensor));
        let parts: Vec<&str> = name.splitn(DEEPEST, '.').collect();
        let (leaf, modules) = parts.split_last().unwrap_or((&"", &[]));
        let (mut at, mut end) = (0, 0);
        for part in modules.iter().map(Some).chain([None]) {
            let node = &mut self.nodes[at];
            node.count += 1;
            node.bytes += tensor.bytes;
            node.verdict = node.verdict.max(tensor.verdict);
            node.least = match (node.least, judged) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let Some(part) = part else { break };
            end += part.len() + usize::from(end > 0 || at > 0);
            at = match node.index.get(part) {
                Some(&child) => child,
                None => {
                    let child = self.nodes.len();
                    self.nodes[at].children.push(child);
                    self.nodes[at].index.insert(part, child);
                    self.nodes.push(Node { part, path: &name[..end], ..Node::default() });
                    child
                }
            };
        }
        let child = self.nodes.len();
        self.nodes[at].children.push(child);
        self.nodes.push(Node { part: leaf, path: name, tensor: Some(i), ..Node::default() });
    }

    /// Adds the rows below `node`.
    fn list(
        &self,
        node: usize,
        depth: usize,
        tensors: &[TensorRecord],
        listing: &Listing,
        unfolded: &HashSet<String>,
        rows: &mut Vec<Row>,
    ) {
        let mut children: Vec<(Row, usize)> = Vec::with_capacity(self.nodes[node].children.len());
        for &child in &self.nodes[node].children {
            // A module with a single child is shown together with it.
            let (mut at, mut label) = (child, self.nodes[child].part.to_string());
            while let ([only], None) = (self.nodes[at].children.as_slice(), self.nodes[at].tensor) {
                at = *only;
                label = format!("{label}.{}", self.nodes[at].part);
            }
            let found = &self.nodes[at];
            let row = match found.tensor {
                Some(i) => tensor_row(i, &tensors[i], label, depth, listing),
                None => Row {
                    depth,
                    label,
                    kind: Kind::Module { path: found.path.into(), open: unfolded.contains(found.path) },
                    count: found.count,
                    bytes: found.bytes,
                    verdict: found.verdict,
                    least: found.least,
                    hits: Vec::new(),
                },
            };
            children.push((row, at));
        }
        children.sort_by(|(a, _), (b, _)| listing.order.sort.compare(tensors, a, b));
        if listing.order.reversed {
            children.reverse();
        }
        for (row, at) in children {
            let open = matches!(row.kind, Kind::Module { open: true, .. });
            rows.push(row);
            if open {
                self.list(at, depth + 1, tensors, listing, unfolded, rows);
            }
        }
    }
}

/// The modules to unfold at first: outermost ones first, weights before the rest, as long as there are few rows.
pub fn first_unfolded(record: &CheckpointRecord) -> HashSet<String> {
    let tree = Tree::new(record.tensors.iter().enumerate(), None);
    let mut unfolded = HashSet::new();
    let mut visible = tree.nodes[0].children.len();
    let mut queue: std::collections::VecDeque<usize> = [0].into();
    let holds_weights = |at: usize| {
        let mut at = at;
        while let Some(&first) = tree.nodes[at].children.first() {
            at = first;
        }
        tree.nodes[at].tensor.is_some_and(|i| record.tensors[i].group == Group::Weights)
    };
    while let Some(at) = queue.pop_front() {
        let node = &tree.nodes[at];
        let shows = if node.children.len() == 1 { 0 } else { node.children.len() };
        if at != 0 {
            if visible + shows > FIRST_ROWS || !holds_weights(at) {
                continue;
            }
            visible += shows;
            unfolded.insert(node.path.to_string());
        }
        queue.extend(node.children.iter().filter(|&&c| tree.nodes[c].tensor.is_none()));
    }
    unfolded
}

/// The path of every module.
pub fn all_modules(record: &CheckpointRecord) -> HashSet<String> {
    let tree = Tree::new(record.tensors.iter().enumerate(), None);
    tree.nodes.iter().skip(1).filter(|n| n.tensor.is_none()).map(|n| n.path.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(names: &[&str]) -> CheckpointRecord {
        let mut record = CheckpointRecord::default();
        record.tensors.resize(names.len(), TensorRecord::default());
        record.tensors.iter_mut().zip(names).for_each(|(tensor, name)| tensor.name = name.to_string());
        record
    }

    fn labels(names: &[&str], listing: &Listing, unfolded: &HashSet<String>) -> Vec<String> {
        rows(&record(names), listing, unfolded)
            .into_iter()
            .map(|row| format!("{}{}", " ".repeat(row.depth), row.label))
            .collect()
    }

    #[test]
    fn modules_that_hold_one_thing_are_shown_with_it() {
        let names =
            ["m.layers.0.a.weight", "m.layers.0.b.weight", "m.layers.1.a.weight", "m.norm.weight", "step"];
        let record = record(&names);
        assert_eq!(labels(&names, &Listing::default(), &HashSet::new()), ["m", "step"]);
        assert_eq!(
            labels(&names, &Listing::default(), &all_modules(&record)),
            ["m", " layers", "  0", "   a.weight", "   b.weight", "  1.a.weight", " norm.weight", "step"]
        );
    }

    #[test]
    fn a_flat_list_leaves_out_the_key_of_a_dict_and_no_part_of_names() {
        let flat = Listing { flat: true, ..Listing::default() };
        let mut record = record(&["net.a.weight", "net.b.weight", "ema.b.weight"]);
        assert_eq!(flat_names(&record), ["net.a.weight", "net.b.weight", "ema.b.weight"]);
        let names: Vec<String> =
            rows(&record, &flat, &HashSet::new()).into_iter().map(|row| row.label).collect();
        assert_eq!(names, ["net.a.weight", "net.b.weight", "ema.b.weight"]);
        for key in ["net", "ema"] {
            record.metadata.insert(key.into(), serde_json::json!({}));
        }
        assert_eq!(flat_names(&record), ["a.weight", "net.b.weight", "ema.b.weight"]);
    }

    /// A name may be a prefix of another, empty, or all dots.
    #[test]
    fn strange_names_have_rows() {
        let names = ["a", "a.b", "", "...", "a", ".x"];
        let unfolded = all_modules(&record(&names));
        let shown = labels(&names, &Listing::default(), &unfolded);
        assert_eq!(shown.len(), 7, "{shown:?}");
        let deep = vec!["x"; 100_000].join(".");
        assert_eq!(labels(&[&deep, "y"], &Listing::default(), &HashSet::new()).len(), 2);
    }

    #[test]
    fn search_finds_scattered_letters_and_numbers_sort_by_value() {
        let names = ["layers.10.mlp.gate_proj", "layers.2.mlp.gate_proj", "embed"];
        let search =
            Listing { order: Order { query: "l2gate".into(), ..Order::default() }, ..Listing::default() };
        assert_eq!(labels(&names, &search, &HashSet::new()), ["layers.2.mlp.gate_proj"]);
        let sorted = Listing {
            order: Order { sort: Sort::Name, ..Order::default() },
            flat: true,
            ..Listing::default()
        };
        let by_name = labels(&names, &sorted, &HashSet::new());
        assert_eq!(by_name, ["embed", "layers.2.mlp.gate_proj", "layers.10.mlp.gate_proj"]);
    }
}
