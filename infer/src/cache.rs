//! The KV cache: keys and values of every position, once per KV head, in pages that are added as the context grows.

use std::collections::VecDeque;

use half::f16;

use crate::Config;
use crate::kernel::Aligned;
use crate::kernel::float::Element;
use crate::kernel::simd::LANES;
use crate::{Error, Result};

/// Positions per page.
pub(crate) const PAGE: usize = 64;

/// The element type of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the variants are the types' names
#[non_exhaustive]
pub enum KvType {
    #[default]
    F32,
    F16,
}

/// What happens when the context is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// [`Error::ContextFull`].
    #[default]
    Stop,
    /// The oldest positions are forgotten: attention sees the last `max_seq_len` ones. Positions keep counting up;
    /// rotary embedding depends only on their differences, and none exceeds what the model was made for.
    Slide,
}

/// Keys and values of one sequence.
#[derive(Debug)]
pub struct Cache {
    pub(crate) pages: Pages,
    when_full: WhenFull,
    limit: usize,
    /// Ids of the positions held, the forgotten ones too.
    ids: Vec<u32>,
    /// Whether its keys have the rotary frequencies of long texts.
    is_long: bool,
}

#[derive(Debug)]
pub(crate) enum Pages {
    F32(Paged<f32>),
    F16(Paged<f16>),
}

/// Pages of one element type.
#[derive(Debug)]
pub(crate) struct Paged<E> {
    pages: VecDeque<Aligned<E>>,
    /// Number of the first page held.
    first: usize,
    layers: usize,
    heads: usize,
    /// Elements of a key.
    pub head_dim: usize,
    /// Elements of a value as stored: whole vectors.
    pub value_dim: usize,
}

impl<E: Element> Paged<E> {
    fn new(config: &Config) -> Self {
        Paged {
            pages: VecDeque::new(),
            first: 0,
            layers: config.num_layers,
            heads: config.num_kv_heads,
            head_dim: config.head_dim,
            value_dim: config.head_dim.next_multiple_of(LANES),
        }
    }

    /// Whether a model of `config` has as many layers and KV heads, of that size.
    fn fits(&self, config: &Config) -> bool {
        [self.layers, self.heads, self.head_dim] == [config.num_layers, config.num_kv_heads, config.head_dim]
    }

    /// Elements of one layer and head in a page: keys [head_dim, PAGE], then values [PAGE, value_dim].
    fn slot(&self) -> usize {
        PAGE * (self.head_dim + self.value_dim)
    }

    /// Makes room for the positions below `end` and forgets pages that end at or before `start`.
    fn reserve(&mut self, start: usize, end: usize) {
        while (self.first + 1) * PAGE <= start && !self.pages.is_empty() {
            self.pages.pop_front();
            self.first += 1;
        }
        while (self.first + self.pages.len()) * PAGE < end {
            self.pages.push_back(Aligned::zeroed(self.layers * self.heads * self.slot()));
        }
    }

    /// Keys, transposed [head_dim, PAGE], and values [PAGE, value_dim] of one page, layer and head. `page` counts
    /// from the beginning of the sequence.
    #[inline(always)]
    pub fn page(&self, page: usize, layer: usize, head: usize) -> (&[E], &[E]) {
        let start = (layer * self.heads + head) * self.slot();
        self.pages[page - self.first][start..start + self.slot()].split_at(PAGE * self.head_dim)
    }

    /// Stores the key and value of one position.
    pub fn put(&mut self, position: usize, layer: usize, head: usize, key: &[f32], value: &[f32]) {
        let (slot, start) = (self.slot(), (layer * self.heads + head) * self.slot());
        let (page, at) = (position / PAGE - self.first, position % PAGE);
        let slot = &mut self.pages[page][start..start + slot];
        let (keys, values) = slot.split_at_mut(PAGE * self.head_dim);
        for (row, &k) in keys.chunks_exact_mut(PAGE).zip(key) {
            row[at] = E::of(k);
        }
        for (out, &v) in values[at * self.value_dim..].iter_mut().zip(value) {
            *out = E::of(v);
        }
    }

    /// The key and value of one position, as stored.
    pub fn get(&self, position: usize, layer: usize, head: usize) -> (Vec<E>, &[E]) {
        let (keys, values) = self.page(position / PAGE, layer, head);
        let at = position % PAGE;
        let key = keys.chunks_exact(PAGE).map(|row| row[at]).collect();
        (key, &values[at * self.value_dim..][..self.head_dim])
    }
}

/// Calls `$body` with the pages of either type.
macro_rules! with_pages {
    ($pages:expr, $paged:ident => $body:expr) => {
        match $pages {
            Pages::F32($paged) => $body,
            Pages::F16($paged) => $body,
        }
    };
}
pub(crate) use with_pages;

impl Cache {
    /// An empty cache for a model of `config`.
    pub fn new(config: &Config, kv: KvType, when_full: WhenFull) -> Self {
        let pages = match kv {
            KvType::F32 => Pages::F32(Paged::new(config)),
            KvType::F16 => Pages::F16(Paged::new(config)),
        };
        Cache { pages, when_full, limit: config.max_seq_len, ids: Vec::new(), is_long: false }
    }

    /// Positions that have gone through the model.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether nothing has gone through the model yet.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Ids of all positions that have gone through the model.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The element type of keys and values.
    pub fn kv_type(&self) -> KvType {
        match self.pages {
            Pages::F32(_) => KvType::F32,
            Pages::F16(_) => KvType::F16,
        }
    }

    /// The first position that is still held.
    pub fn start(&self) -> usize {
        match self.when_full {
            WhenFull::Stop => 0,
            WhenFull::Slide => self.ids.len().saturating_sub(self.limit),
        }
    }

    /// Bytes of keys and values allocated.
    pub fn bytes(&self) -> usize {
        fn of<E: Element>(pages: &Paged<E>) -> usize {
            pages.pages.iter().map(|page| page.len() * size_of::<E>()).sum()
        }
        with_pages!(&self.pages, pages => of(pages))
    }

    /// Forgets the positions from `len` on.
    ///
    /// # Errors
    /// `Usage` when positions before `len` have been dropped by sliding, so that attention would lack them.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        if len >= self.ids.len() {
            return Ok(());
        }
        if self.start() > 0 {
            return Err(Error::Usage("the cache cannot be rewound after its window has slid"));
        }
        self.ids.truncate(len);
        let pages = len.div_ceil(PAGE);
        with_pages!(&mut self.pages, paged => paged.pages.truncate(pages - paged.first));
        Ok(())
    }

    /// Whether its keys have the rotary frequencies of long texts, in models in which those differ.
    pub(crate) fn is_long(&self) -> bool {
        self.is_long
    }

    /// Says which frequencies the keys have that a file gives.
    pub(crate) fn set_long(&mut self, is_long: bool) {
        self.is_long = is_long;
    }

    /// Forgets all positions, and returns their ids. Those that follow have the rotary frequencies of long texts or not.
    pub(crate) fn restart(&mut self, is_long: bool) -> Vec<u32> {
        with_pages!(&mut self.pages, paged => {
            paged.pages.clear();
            paged.first = 0;
        });
        self.is_long = is_long;
        std::mem::take(&mut self.ids)
    }

    /// How many more positions may be added.
    pub fn room(&self) -> usize {
        match self.when_full {
            WhenFull::Stop => self.limit.saturating_sub(self.ids.len()),
            WhenFull::Slide => usize::MAX - self.ids.len(),
        }
    }

    /// The most positions that a query sees, including its own.
    pub(crate) fn window(&self) -> usize {
        self.limit
    }

    /// Whether it holds the keys and values of a model of `config`.
    ///
    /// # Errors
    /// `Usage`.
    pub(crate) fn check_model(&self, config: &Config) -> Result<()> {
        match with_pages!(&self.pages, pages => pages.fits(config)) {
            true => Ok(()),
            false => Err(Error::Usage("the cache was made for a model of other layers or KV heads")),
        }
    }

    /// Whether `n` more positions may be added.
    ///
    /// # Errors
    /// `ContextFull`.
    pub(crate) fn check_room(&self, n: usize) -> Result<()> {
        match n <= self.room() {
            true => Ok(()),
            false => Err(Error::ContextFull { wanted: self.ids.len() + n, limit: self.limit }),
        }
    }

    /// Makes room for `ids`, which are about to go through the model.
    ///
    /// # Errors
    /// `ContextFull`.
    pub(crate) fn extend(&mut self, ids: &[u32]) -> Result<()> {
        self.check_room(ids.len())?;
        let start = (self.ids.len() + 1).saturating_sub(self.limit);
        self.ids.extend_from_slice(ids);
        let end = self.ids.len();
        with_pages!(&mut self.pages, pages => pages.reserve(start, end));
        Ok(())
    }
}
