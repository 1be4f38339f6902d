//! What one rank saves of a tensor that is divided over several: the local tensor of a DTensor, and the shards of a
//! ShardedTensor, each with its place in the whole.

use std::sync::Arc;

use super::tensors::Args;
use super::{ENTRY, Walker, quoted};
use crate::metadata::Value;
use crate::pickle::{Id, Node};
use crate::tensor::{Division, Placement, Share, numel};

/// Dimensions of a mesh, at most.
const MESH: usize = 16;

/// The shards of a ShardedTensor that a rank has.
pub(super) struct Shards {
    whole: Vec<usize>,
    /// Tensors, and where each begins in the whole.
    own: Vec<(Id, Vec<usize>)>,
    all: Arc<Vec<(Vec<usize>, Vec<usize>)>>,
}

impl Walker<'_, '_> {
    /// Keeps the `torch.Size` with these arguments, which `name` leads to.
    pub(super) fn keep_size(&mut self, name: Option<&str>, args: &[Id]) {
        let Some((name, &first)) = name.zip(args.first()) else { return };
        let shape = Args { pickle: self.pickle, ids: args }.shape_of(first);
        if let Ok(shape) = shape
            && self.afford(name.len() + 16 * shape.len() + 64)
        {
            self.sizes.push((name.to_string(), shape));
        }
    }

    /// Keeps a tuple where DeepSpeed has the shapes of parameters, which are not always `torch.Size`.
    pub(super) fn keep_shape(&mut self, name: Option<&str>, id: Id) {
        if name.is_some_and(|name| name.starts_with("param_shapes.")) {
            self.keep_size(name, &[id]);
        }
    }

    /// The local tensor in the state of a DTensor; `None` for an object of another class.
    pub(super) fn local_tensor(&self, class: Id, state: Id) -> Option<Id> {
        let (module, class) = self.pickle.global(class)?;
        if class != "DTensor" || !module.starts_with("torch.distributed.") {
            return None;
        }
        self.of_state(state, "_local_tensor")
    }

    /// The entry `name` of the state of an object: a dict, or a pair of dicts.
    fn of_state(&self, state: Id, name: &str) -> Option<Id> {
        let of_pair = |&part: &Id| self.pickle.entry(part, name);
        self.pickle.entry(state, name).or_else(|| self.pickle.sequence(state)?.iter().find_map(of_pair))
    }

    /// Lists the tensor `local` of the DTensor whose wrapper has the arguments `wrapper`.
    pub(super) fn list_local(
        &mut self,
        local: Id,
        wrapper: &[Id],
        state: Id,
        name: Option<&str>,
        depth: usize,
    ) -> Option<Value> {
        let before = self.tensors.len();
        let value = self.walk(local, name, depth + 1);
        let spec = self.of_state(state, "_spec");
        let pickle = self.pickle;
        let args = Args { pickle, ids: wrapper };
        let whole = wrapper.get(2).and_then(|&size| args.shape_of(size).ok()).unwrap_or_default();
        let division = match spec {
            // A subclass of its own: what its parts are to the whole is not known.
            _ if self.tensors.len() != before + 1 => {
                Division::Other("its local tensor is not a plain tensor".into())
            }
            Some(spec) if numel(&whole).is_some() => self.mesh(spec).unwrap_or_else(Division::Other),
            _ => Division::Other("its shape or its mesh cannot be read".into()),
        };
        let grad = wrapper.get(7).is_some_and(|&id| matches!(pickle.node(id), Node::Bool(true)));
        for number in before..self.tensors.len() {
            if !self.afford(ENTRY) {
                break;
            }
            let share = Share { whole: whole.clone(), division: division.clone(), number: number - before };
            let tensor = &mut self.tensors[number];
            tensor.requires_grad |= grad;
            tensor.share = Some(Arc::new(share));
        }
        value
    }

    /// How the DTensorSpec `spec` divides its tensor, and which part this rank has.
    fn mesh(&self, spec: Id) -> std::result::Result<Division, String> {
        let pickle = self.pickle;
        let unknown = |what: &str| format!("{what} cannot be read");
        let mesh = pickle.attribute(spec, "mesh").ok_or_else(|| unknown("its mesh"))?;
        let placements = pickle.attribute(spec, "placements").and_then(|id| pickle.sequence(id));
        let placements = placements.filter(|placements| placements.len() <= MESH);
        let placements = placements.ok_or_else(|| unknown("its placements"))?;
        let (placements, factors): (Vec<Placement>, Vec<usize>) =
            placements.iter().map(|&placement| self.placement(placement)).unzip();
        let at = pickle.attribute(mesh, "_coordinate_on_dim").and_then(|id| self.numbers(id));
        let at = at.ok_or_else(|| unknown("the rank's place in its mesh"))?;
        let sizes = self.mesh_sizes(mesh).ok_or_else(|| unknown("the size of its mesh"))?;
        let fits = placements.len() == sizes.len()
            && at.len() == sizes.len()
            && at.iter().zip(&sizes).all(|(at, size)| at < size);
        if !fits {
            return Err(format!("its place {at:?} and its placements do not fit its mesh {sizes:?}"));
        }
        let order = self
            .order(spec, &placements, &factors, &sizes)
            .ok_or_else(|| "the order in which its dimensions are divided is not known".to_string())?;
        let rank = self.rank(mesh, &sizes, &at);
        Ok(Division::Mesh { sizes, at, placements, order, rank })
    }

    /// The rank at the place `at` of the DeviceMesh `mesh`: newer ones say whose they are, older ones list all ranks.
    fn rank(&self, mesh: Id, sizes: &[usize], at: &[usize]) -> Option<usize> {
        let pickle = self.pickle;
        if let Some(rank) = pickle.attribute(mesh, "_rank") {
            return usize::try_from(pickle.int(rank)?).ok();
        }
        let ranks = pickle.sequence(pickle.attribute(mesh, "_flatten_mesh_list")?)?;
        let count = sizes.iter().try_fold(1usize, |count, &size| count.checked_mul(size))?;
        let place = sizes
            .iter()
            .zip(at)
            .try_fold(0usize, |place, (&size, &at)| place.checked_mul(size)?.checked_add(at));
        let &rank = ranks.get(place?).filter(|_| ranks.len() == count)?;
        usize::try_from(pickle.int(rank)?).ok()
    }

    /// Ranks in each dimension of the DeviceMesh `mesh`.
    fn mesh_sizes(&self, mesh: Id) -> Option<Vec<usize>> {
        let pickle = self.pickle;
        if let Some(layout) = pickle.attribute(mesh, "_layout") {
            // Each dimension may be several of the world's.
            let shape = |of: Id| pickle.attribute(of, "shape").and_then(|shape| self.product(shape, 0));
            if let Some(axes) = pickle.attribute(layout, "axes").and_then(|axes| pickle.sequence(axes)) {
                return axes.iter().take(MESH).map(|&axis| shape(axis)).collect();
            }
            let sizes = pickle.attribute(layout, "shape")?;
            return match pickle.sequence(sizes) {
                Some(sizes) => sizes.iter().take(MESH).map(|&size| self.product(size, 0)).collect(),
                None => Some(vec![self.product(sizes, 0)?]),
            };
        }
        // The tensor of ranks.
        let Node::Object(ranks) = pickle.node(pickle.attribute(mesh, "mesh")?) else { return None };
        let args = pickle.sequence(ranks.args)?;
        Args { pickle, ids: args }.shape_of(*args.get(2)?).ok()
    }

    /// A number, or the product of nested ones.
    fn product(&self, id: Id, depth: usize) -> Option<usize> {
        match self.pickle.sequence(id) {
            None => usize::try_from(self.pickle.int(id)?).ok(),
            Some(_) if depth > 4 => None,
            Some(sizes) => sizes
                .iter()
                .take(MESH)
                .try_fold(1usize, |product, &size| product.checked_mul(self.product(size, depth + 1)?)),
        }
    }

    /// A sequence of a few whole numbers.
    fn numbers(&self, id: Id) -> Option<Vec<usize>> {
        let items = self.pickle.sequence(id).filter(|items| items.len() <= 64)?;
        items.iter().map(|&item| usize::try_from(self.pickle.int(item)?).ok()).collect()
    }

    /// Attribute `name` of object `id`, which is the one at `place` where they are listed without names.
    fn number(&self, id: Id, name: &str, place: usize) -> Option<usize> {
        let pickle = self.pickle;
        let Node::Object(object) = pickle.node(id) else { return None };
        let listed = |id: Id| pickle.sequence(id)?.get(place).copied();
        let found = pickle
            .attribute(id, name)
            .or_else(|| pickle.entry(object.kwargs?, name))
            .or_else(|| listed(*object.state.last()?))
            .or_else(|| listed(object.args));
        usize::try_from(pickle.int(found?)?).ok()
    }

    /// What the object `id` does with a tensor, and the number of chunks that were made before.
    fn placement(&self, id: Id) -> (Placement, usize) {
        let Some((_, class)) = self.pickle.class(id) else { return (Placement::Other("unknown".into()), 1) };
        let dim = || self.number(id, "dim", 0).map(Placement::Shard);
        match class {
            "Replicate" => Some((Placement::Replicate, 1)),
            "Shard" => dim().map(|placement| (placement, 1)),
            "_StridedShard" => dim().zip(self.number(id, "split_factor", 1)),
            _ => None,
        }
        .unwrap_or_else(|| (Placement::Other(quoted(class)), 1))
    }

    /// The dimensions of the mesh that divide the tensor of `spec`, in the order in which they do. One that follows
    /// others to its right, as where FSDP divides what tensor parallelism has, is a `_StridedShard`: its factor is the
    /// number of their chunks (`_maybe_convert_StridedShard_to_shard_order` in PyTorch).
    fn order(
        &self,
        spec: Id,
        placements: &[Placement],
        factors: &[usize],
        sizes: &[usize],
    ) -> Option<Vec<usize>> {
        let pickle = self.pickle;
        let stated = pickle.attribute(spec, "shard_order").and_then(|id| pickle.sequence(id));
        if factors.iter().all(|&factor| factor == 1)
            && let Some(entries) = stated
        {
            let mut order = Vec::new();
            for &entry in entries.iter().take(64) {
                let parts = match pickle.node(entry) {
                    Node::Object(object) => pickle.sequence(object.args),
                    _ => pickle.sequence(entry),
                };
                order.extend(self.numbers(*parts?.get(1)?)?);
            }
            let known = |(d, placement): (usize, &Placement)| match placement {
                Placement::Shard(_) => order.iter().filter(|&&other| other == d).count() == 1,
                _ => !order.contains(&d),
            };
            let whole = placements.iter().enumerate().all(known) && order.iter().all(|&d| d < sizes.len());
            return whole.then_some(order);
        }
        let mut order: Vec<usize> = Vec::new();
        for (d, placement) in placements.iter().enumerate().rev() {
            let Placement::Shard(_) = placement else { continue };
            // After as many of the same dimension's as make up its factor.
            let mut chunks = 1usize;
            let mut place = 0;
            while chunks != factors[d] {
                place += 1 + order[place..].iter().position(|&other| placements[other] == *placement)?;
                chunks = chunks.checked_mul(sizes[order[place - 1]])?;
            }
            order.insert(place, d);
        }
        Some(order)
    }

    /// The shards in the state of a ShardedTensor; `None` for an object of another class.
    pub(super) fn sharded(&mut self, class: Id, state: Id) -> Option<Shards> {
        let pickle = self.pickle;
        let (module, class) = pickle.global(class)?;
        if class != "ShardedTensor" || !module.starts_with("torch.distributed.") {
            return None;
        }
        let &[own, metadata, ..] = pickle.sequence(state)? else { return None };
        let whole = self.shape(pickle.attribute(metadata, "size")?)?;
        numel(&whole)?;
        let listed = pickle.sequence(pickle.attribute(metadata, "shards_metadata")?)?;
        let all: Option<Vec<_>> = listed.iter().map(|&shard| self.block(shard)).collect();
        let own = pickle.sequence(own)?.iter().map(|&shard| {
            let (offsets, _) = self.block(pickle.attribute(shard, "metadata")?)?;
            Some((pickle.attribute(shard, "tensor")?, offsets))
        });
        let own = own.collect::<Option<_>>()?;
        Some(Shards { whole, own, all: Arc::new(all?) })
    }

    /// Where the block of a ShardMetadata begins, and its size.
    fn block(&mut self, id: Id) -> Option<(Vec<usize>, Vec<usize>)> {
        let offsets = self.numbers(self.pickle.attribute(id, "shard_offsets")?)?;
        let sizes = self.numbers(self.pickle.attribute(id, "shard_sizes")?)?;
        // Many tensors may refer to one list of blocks.
        self.afford(16 * (offsets.len() + sizes.len()) + 48).then_some((offsets, sizes))
    }

    fn shape(&self, id: Id) -> Option<Vec<usize>> {
        Args { pickle: self.pickle, ids: &[] }.shape_of(id).ok()
    }

    /// Lists the shards of a ShardedTensor: the first under its name.
    pub(super) fn list_shards(&mut self, shards: Shards, name: Option<&str>, depth: usize) {
        let Shards { whole, own, all } = shards;
        for (number, (tensor, offsets)) in own.into_iter().enumerate() {
            if !self.afford(ENTRY + 16 * (whole.len() + offsets.len())) {
                break;
            }
            let before = self.tensors.len();
            let other = match number {
                0 => None,
                _ => self.child_name(name, &format!("shard_{number}")),
            };
            self.walk(tensor, other.as_deref().or(name), depth + 1);
            let division = match self.tensors.len() - before {
                1 => Division::Block { offsets, all: all.clone() },
                _ => Division::Other("its shard is not a plain tensor".into()),
            };
            for tensor in &mut self.tensors[before..] {
                let share = Share { whole: whole.clone(), division: division.clone(), number };
                tensor.share = Some(Arc::new(share));
            }
        }
    }
}
