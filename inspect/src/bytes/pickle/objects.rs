//! What the machine does to containers, and the classes and objects that it makes.

use std::sync::Arc;

use super::machine::{Machine, elements, underflow};
use super::{Global, Id, Node, Object};
use crate::{Error, Result};

impl Machine<'_> {
    pub(super) fn extend(&mut self, items: &[Id]) -> Result<()> {
        let (target, traced) = (self.top()?, self.is_traced());
        self.charge(elements::<Id>(items.len()))?;
        match &mut self.nodes[target.0 as usize] {
            Node::List(list) | Node::Set(list) => list.extend_from_slice(items),
            Node::Object(object) => object.items.extend_from_slice(items),
            // This is how a bytearray gets its bytes.
            Node::Bytes(_) if traced => {
                let changed = self.seen.as_ref().map(|seen| &seen.changed);
                let is_lost = |id: &Id| changed.is_some_and(|c| c.get(&id.index()) == Some(&u64::MAX));
                let known = !items.iter().any(is_lost);
                let more: Option<Vec<u8>> = items
                    .iter()
                    .map(|id| match self.nodes[id.0 as usize] {
                        Node::Int(i) => u8::try_from(i).ok(),
                        Node::Bool(b) => Some(b.into()),
                        _ => None,
                    })
                    .collect();
                match (more, &mut self.nodes[target.0 as usize]) {
                    (Some(more), Node::Bytes(bytes)) if known => bytes.to_mut().extend(more),
                    _ => self.lost(target),
                }
            }
            _ if traced => self.lost(target),
            _ => return Err(Error::damaged("the pickle appends to something that is not a list")),
        }
        self.note(|seen, at| {
            let last = seen.changed.entry(target.index()).or_default();
            *last = at.max(*last);
        });
        Ok(())
    }

    /// Notes that the value of `target` is changed in a way that is not followed.
    pub(super) fn lost(&mut self, target: Id) {
        self.note(|seen, _| {
            seen.changed.insert(target.index(), u64::MAX);
        });
    }

    pub(super) fn set(&mut self, pairs: Vec<(Id, Id)>) -> Result<()> {
        let (target, traced) = (self.top()?, self.is_traced());
        self.charge(elements::<(Id, Id)>(pairs.len()))?;
        match &mut self.nodes[target.0 as usize] {
            Node::Dict(entries) if entries.is_empty() => *entries = pairs,
            Node::Dict(entries) => entries.extend(pairs),
            Node::Object(object) => {
                object.entries.extend(pairs);
                if traced {
                    self.lost(target);
                }
            }
            // What it holds counts, wherever in it that is.
            Node::List(items) if traced => {
                items.extend(pairs.iter().map(|&(_, value)| value));
                self.lost(target);
            }
            _ if traced => self.lost(target),
            _ => return Err(Error::damaged("the pickle sets an item of something that is not a dict")),
        }
        Ok(())
    }

    pub(super) fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let (target, traced) = (self.top()?, self.is_traced());
        self.note(|seen, at| seen.builds.push((at, target)));
        match &mut self.nodes[target.0 as usize] {
            Node::Object(object) => object.state.push(state),
            // A class or function with attributes set on it: Python's value does not store the attributes.
            Node::Global(_) | Node::Persistent(_) => {}
            _ if traced => {}
            _ => return Err(Error::damaged("the pickle sets the state of something that has none")),
        }
        if traced {
            self.skip_joblib_array(target)?;
        }
        Ok(())
    }

    pub(super) fn object(&mut self, callable: Id, args: Id, kwargs: Option<Id>) -> Result<()> {
        let object =
            Object { callable, args, kwargs, state: Vec::new(), items: Vec::new(), entries: Vec::new() };
        let id = self.add(Node::Object(Box::new(object)))?;
        self.note(|seen, at| seen.calls.push((at, id)));
        self.stack.push(id);
        Ok(())
    }

    pub(super) fn inst(&mut self) -> Result<()> {
        let module = self.name()?;
        let name = self.name()?;
        // Python's own unpickler imports it before it looks for the mark.
        self.global(module, name)?;
        let callable = self.stack.pop().ok_or_else(underflow)?;
        let args = self.pop_to_mark()?;
        let args = self.add(Node::Tuple(args))?;
        self.object(callable, args, None)
    }

    pub(super) fn obj(&mut self) -> Result<()> {
        let mut args = self.pop_to_mark()?;
        if args.is_empty() {
            return Err(underflow());
        }
        let callable = args.remove(0);
        let args = self.add(Node::Tuple(args))?;
        self.object(callable, args, None)
    }

    pub(super) fn global(&mut self, module: Arc<str>, name: Arc<str>) -> Result<()> {
        self.global_bytes_left =
            self.global_bytes_left.checked_sub(module.len() + name.len()).ok_or_else(|| {
                Error::unsupported(
                    "its names of imports repeat far more often than a pickle of this size would",
                )
            })?;
        let global = Global { module, name };
        if self.known_globals.insert(global.clone()) {
            self.globals.push(global.clone());
        }
        let id = self.add(Node::Global(Box::new(global)))?;
        self.note(|seen, at| seen.imports.push((at, id)));
        self.stack.push(id);
        Ok(())
    }

    pub(super) fn stack_global(&mut self) -> Result<()> {
        let name = self.pop()?;
        let module = self.pop()?;
        match (&self.nodes[module.0 as usize], &self.nodes[name.0 as usize]) {
            (Node::Str(module), Node::Str(name)) => {
                let (module, name) = (module.clone(), name.clone());
                self.global(module, name)
            }
            _ => Err(Error::damaged("a STACK_GLOBAL opcode of the pickle gets something that is not a name")),
        }
    }

    pub(super) fn extension(&mut self, code: u32) -> Result<()> {
        self.global("copyreg".into(), format!("_inverted_registry[{code}]").into())
    }

    pub(super) fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>> {
        if !items.len().is_multiple_of(2) && !self.is_traced() {
            return Err(Error::damaged("the pickle sets items with a key that has no value"));
        }
        Ok(items.chunks_exact(2).map(|kv| (kv[0], kv[1])).collect())
    }
}
