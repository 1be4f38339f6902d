//! Quantized weights: codes are unpacked, and multiplied by the scales of their groups, a piece of a row at a time.

mod kernel;
pub(super) mod repacked;
mod unpack;

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

use super::float::Float;
use super::{Elements, narrowed, wide};
use crate::quantized::form::{Global, Grid, Numbers, Value, Zero};
use crate::quantized::{PartRole, Quantized};
use crate::{DType, DamageKind, Error, Result, TensorInfo};
use kernel::Groups;

/// What codes are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scaled {
    /// All there is.
    Whole,
    /// The scales of their groups, without the further factor.
    ByGroup,
    /// Nothing.
    Bare,
}

/// Columns that are decoded at a time.
const PIECE: usize = 1024;
/// Groups of a piece, at most.
const MOST_GROUPS: usize = 64;

/// The codes of a weight and what they are multiplied by.
pub(crate) struct Coded<'a> {
    quantized: &'a Quantized,
    /// Bytes of each part.
    bytes: Vec<Cow<'a, [u8]>>,
    /// The further factors, one or one for each slice.
    globals: Vec<f32>,
    /// What 4-bit codes stand for.
    book: [f32; 16],
    /// The values of a nested scale's codes.
    nested: Vec<f32>,
    /// The group of each column, where an index tells it.
    index: Option<Vec<u32>>,
    /// Groups of columns.
    groups: usize,
    /// What each column is multiplied by besides; empty for nothing.
    columns: Vec<f32>,
    /// Distinguishes it from others, for what threads keep of it.
    id: u64,
}

/// The type of a part's numbers: a plain byte is an exponent, as E8M0 has it.
fn number_type(dtype: DType) -> DType {
    if dtype == DType::U8 { DType::F8E8M0FNU } else { dtype }
}

/// Fills `out` with the numbers from `start`.
fn read_numbers(dtype: DType, bytes: &[u8], start: usize, out: &mut [f32]) {
    match Float::of(dtype) {
        Some(float) => float.read(bytes, start, out),
        None => match wide::decoder(dtype) {
            Some(decode) => narrowed(start, out, |at, wide| decode(bytes, at, wide)),
            None => out.fill(f32::NAN),
        },
    }
}

/// The groups that the index `tensor` with these `bytes` gives columns; `None` if it is unset, where it may be.
fn read_index(tensor: &TensorInfo, bytes: &[u8], may_be_unset: bool) -> Result<Option<Vec<u32>>> {
    let (name, dtype) = (tensor.name.escape_debug(), tensor.dtype);
    let decode = wide::decoder(dtype).filter(|_| dtype.is_integer());
    let decode = decode.ok_or_else(|| Error::damaged(format!("{name} does not hold whole numbers")))?;
    let mut wide = vec![0.0; bytes.len() / dtype.element_size().unwrap_or(1)];
    decode(bytes, 0, &mut wide);
    if may_be_unset && wide.iter().all(|&group| group == -1.0) {
        return Ok(None);
    }
    let group = |&group: &f64| match (0.0..=f64::from(i32::MAX)).contains(&group) {
        true => Ok(group as u32),
        false => Err(Error::damaged(format!("{name} gives a column the group {group}, and there is none"))
            .because(DamageKind::OutOfRange)),
    };
    wide.iter().map(group).collect::<Result<_>>().map(Some)
}

impl<'a> Coded<'a> {
    /// The weight `quantized`, the bytes of whose codes are `codes`.
    pub fn new(quantized: &'a Quantized, codes: Cow<'a, [u8]>) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (form, parts) = (&quantized.form, quantized.parts());
        let mut bytes = vec![codes];
        for part in &parts[1..] {
            // What only says how it was made is not read again.
            bytes.push(match part.role {
                PartRole::State => Cow::Borrowed(&[][..]),
                _ => part.tensor.bytes()?,
            });
        }
        let of_index = |part: usize| read_index(&parts[part].tensor, &bytes[part], form.index_may_be_unset);
        let index = form.index.map(of_index).transpose()?.flatten();
        // Most indices say what the size of groups does.
        let group = form.group.max(1);
        let index =
            index.filter(|index| index.iter().enumerate().any(|(col, &nth)| nth as usize != col / group));
        let groups = match &index {
            Some(index) => index.iter().max().map_or(0, |&most| most as usize + 1),
            None => form.groups(),
        };
        let nameless = || {
            let name = form.index.map_or("its index", |part| parts[part].tensor.name.as_str());
            let (name, most) = (name.escape_debug(), groups.saturating_sub(1));
            Error::damaged(format!("{name} gives columns groups up to {most}, more than there are scales of"))
                .because(DamageKind::OutOfRange)
        };
        // Where groups have scales of their own, their number is checked below.
        let is_shared = form.scale.is_none_or(|grid| grid.group_stride == 0);
        if is_shared && groups > form.groups() {
            return Err(nameless());
        }
        let sizes: Vec<usize> = bytes.iter().map(|bytes| bytes.len()).collect();
        let counts: Vec<usize> = parts
            .iter()
            .zip(&sizes)
            .map(|(part, size)| size / part.tensor.dtype.element_size().unwrap_or(1))
            .collect();
        if let Some(part) = form.too_small(groups, &sizes, &counts) {
            return Err(match parts[part].role {
                PartRole::Codes => {
                    Error::damaged("its codes do not fill its shape").because(DamageKind::Shape)
                }
                PartRole::Scale | PartRole::ZeroPoint if index.is_some() => nameless(),
                role => {
                    Error::damaged(format!("it has too few numbers of its {role}")).because(DamageKind::Shape)
                }
            });
        }
        if let (Some(index), Some(part)) = (&index, form.index) {
            let mut columns = vec![0usize; groups.min(index.len())];
            for &nth in index {
                if let Some(count) = columns.get_mut(nth as usize) {
                    *count += 1;
                }
            }
            // Columns are put in order before they are divided into groups, of which the last may have fewer.
            let (last, others) = columns.split_last().map_or((0, &[][..]), |(last, others)| (*last, others));
            let size = others.first().copied().unwrap_or(last);
            // The size that the number of groups implies, where it can be one.
            let implied = size == group || !form.cols.is_multiple_of(group);
            let divide = implied && last <= size && last > 0 && others.iter().all(|&count| count == size);
            if groups < form.groups() || !divide {
                let name = parts[part].tensor.name.escape_debug();
                let most = columns.iter().max().copied().unwrap_or(0);
                let why = format!(
                    "{name} does not divide the columns into equal groups: one has {most} of {}",
                    index.len()
                );
                return Err(Error::damaged(why).because(DamageKind::OutOfRange));
            }
        }
        let read = |part: usize, n: usize| {
            let mut out = vec![0.0; n];
            read_numbers(parts[part].tensor.dtype, &bytes[part], 0, &mut out);
            out
        };
        let globals = form.global.map_or(Vec::new(), |Global { part, .. }| {
            read(part, if counts[part] == form.slices { form.slices } else { 1 })
        });
        let mut book = [0.0; 16];
        if let Value::Book(part) = form.value {
            book.copy_from_slice(&read(part, 16));
        }
        let nested = match form.scale.map(|grid| grid.numbers) {
            Some(Numbers::Nested { book, .. }) => read(book, 256),
            _ => Vec::new(),
        };
        let columns = form.columns.map_or(Vec::new(), |part| read(part, form.cols));
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Coded { quantized, bytes, globals, book, nested, index, groups, columns, id })
    }

    /// Fills `out` with what the codes from `start` stand for, less their zero points, times what `scaled` says.
    pub fn read(&self, scaled: Scaled, start: usize, out: &mut [f32]) {
        self.pieces(start, out, |row, col, codes, out| {
            self.apply(scaled, row, col, codes, out);
            if scaled == Scaled::Whole && !self.columns.is_empty() {
                out.iter_mut().zip(&self.columns[col..]).for_each(|(x, factor)| *x *= factor);
            }
        });
    }

    /// The further factor of the elements, or of those of each slice; and whether it divides them.
    pub fn factors(&self) -> (&[f32], bool) {
        (&self.globals, self.quantized.form.global.is_some_and(|global| global.divides))
    }

    /// Fills `out` with the codes from `start` as they are stored.
    pub fn read_codes(&self, start: usize, out: &mut [u8]) {
        self.pieces(start, out, |_, _, codes, out| out.copy_from_slice(codes));
    }

    /// The codes of the values that are largest in magnitude, where there are as many of either sign.
    pub fn extremes(&self) -> Vec<u8> {
        let form = &self.quantized.form;
        let top = ((1u32 << form.codes.bits()) - 1) as u8;
        match form.value {
            Value::Unsigned(_) => vec![0, top],
            Value::Signed => vec![0x80, 0x81, 0x7f],
            Value::E2m1 => vec![7, 15],
            Value::Book(_) => {
                let largest = self.book.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                (0..16).filter(|&code| self.book[usize::from(code)].abs() == largest).collect()
            }
            Value::Float(dtype) => {
                let codes: Vec<u8> = (0..=255).collect();
                let mut values = [0.0; 256];
                read_numbers(dtype, &codes, 0, &mut values);
                let largest =
                    values.iter().filter(|x| x.is_finite()).fold(0.0f32, |most, x| most.max(x.abs()));
                codes.into_iter().filter(|&code| values[usize::from(code)].abs() == largest).collect()
            }
        }
    }

    /// Bits of a code.
    pub fn bits(&self) -> u8 {
        self.quantized.form.codes.bits()
    }

    /// The numbers that codes are multiplied by, all of them: scales as they are stored, and further factors.
    pub fn all_scales(&self) -> Vec<Elements<'_>> {
        let form = &self.quantized.form;
        let plain = |part: usize, dtype: DType| {
            Elements::plain(number_type(dtype), Cow::Borrowed(&*self.bytes[part])).ok()
        };
        let scale = form.scale.and_then(|grid| match grid.numbers {
            Numbers::Plain(dtype) | Numbers::Tiled { dtype, .. } => plain(grid.part, dtype),
            Numbers::Nested { scale, .. } => plain(scale, self.quantized.parts()[scale].tensor.dtype),
        });
        let global = form
            .global
            .and_then(|Global { part, .. }| plain(part, self.quantized.parts()[part].tensor.dtype));
        let columns = form.columns.and_then(|part| plain(part, self.quantized.parts()[part].tensor.dtype));
        scale.into_iter().chain(global).chain(columns).collect()
    }

    /// Scales that are codes, and that a scale of theirs makes zero although they are of several values.
    pub fn silenced_scales(&self) -> u64 {
        let Some(Grid { part, numbers: Numbers::Nested { scale, block, .. }, .. }) =
            self.quantized.form.scale
        else {
            return 0;
        };
        let dtype = self.quantized.parts()[scale].tensor.dtype;
        let mut silenced = 0;
        for (nth, codes) in self.bytes[part].chunks(block.max(1)).enumerate() {
            let mut factor = [0.0];
            read_numbers(dtype, &self.bytes[scale], nth, &mut factor);
            // Where all scales are equal nothing is left to be scaled.
            let differ = codes.iter().any(|code| *code != codes[0]);
            if factor[0] == 0.0 && differ {
                silenced +=
                    codes.iter().filter(|&&code| self.nested[usize::from(code)] != 0.0).count() as u64;
            }
        }
        silenced
    }

    /// How many groups have an offset of their scale's sign, or none, so that all of their elements have that sign; `None`
    /// where these are not most of the groups. Quantizers make offsets of elements at an end of a group, which zero is in.
    pub fn opposed_offsets(&self) -> Option<u64> {
        let form = &self.quantized.form;
        let (Some(Grid { part: scale, .. }), Some(Grid { part: offset, .. })) = (form.scale, form.offset)
        else {
            return None;
        };
        let numbers = |part: usize| {
            let dtype = self.quantized.parts()[part].tensor.dtype;
            let count = self.bytes[part].len() / dtype.element_size().unwrap_or(1);
            (dtype, count)
        };
        let ((scales, count), (offsets, other)) = (numbers(scale), numbers(offset));
        let count = count.min(other);
        let (mut groups, mut opposed) = (0u64, 0u64);
        let mut buffers = [[0.0f32; PIECE]; 2];
        for start in (0..count).step_by(PIECE) {
            let n = PIECE.min(count - start);
            let [one, two] = &mut buffers;
            read_numbers(scales, &self.bytes[scale], start, &mut one[..n]);
            read_numbers(offsets, &self.bytes[offset], start, &mut two[..n]);
            for (scale, offset) in one[..n].iter().zip(&two[..n]).filter(|(scale, _)| **scale != 0.0) {
                groups += 1;
                opposed += u64::from(*offset == 0.0 || (*offset > 0.0) == (*scale > 0.0));
            }
        }
        (opposed > groups / 2).then_some(opposed)
    }

    /// Zero points that are stored as whole numbers of their own, and the range of those that a code may be.
    pub fn zero_points(&self) -> Option<(Elements<'_>, RangeInclusive<f32>)> {
        let form = &self.quantized.form;
        let Zero::Numbers(Grid { part, numbers: Numbers::Plain(dtype), .. }) = form.zero else { return None };
        let range = match form.value {
            Value::Unsigned(half) => {
                let (low, codes) = (-half as f32, (1u32 << form.codes.bits()) as f32);
                low..=low + codes - 1.0
            }
            Value::Signed => -128.0..=127.0,
            _ => return None,
        };
        let points = Elements::plain(dtype, Cow::Borrowed(&*self.bytes[part])).ok()?;
        dtype.is_integer().then_some((points, range))
    }

    /// Passes the codes of pieces of rows to `finish`, with where they begin and the part of `out` that they are for.
    fn pieces<T>(&self, start: usize, out: &mut [T], finish: impl Fn(usize, usize, &[u8], &mut [T])) {
        let cols = self.quantized.form.cols.max(1);
        let most = self.quantized.form.group.max(1).saturating_mul(MOST_GROUPS).min(PIECE);
        let mut buffer = [0u8; PIECE];
        let mut done = 0;
        while done < out.len() {
            let (row, col) = ((start + done) / cols, (start + done) % cols);
            let n = (cols - col).min(out.len() - done).min(most);
            let codes = self.codes(row, col, &mut buffer[..n]);
            finish(row, col, codes, &mut out[done..done + n]);
            done += n;
        }
    }

    /// Multiplies the codes from (`row`, `col`) by what `scaled` says.
    fn apply(&self, scaled: Scaled, row: usize, col: usize, codes: &[u8], out: &mut [f32]) {
        let form = &self.quantized.form;
        let (slice, row) = (row / form.rows.max(1), row % form.rows.max(1));
        let group = form.group.max(1);
        if let Some(index) = &self.index {
            let mut rows = [(); 3].map(|()| vec![0.0; self.groups]);
            let all = self.terms(scaled, slice, row, 0, rows.each_mut().map(Vec::as_mut_slice));
            // Neighbours mostly share a group.
            let index = &index[col.min(index.len())..];
            let mut at = 0;
            while at < codes.len() {
                let group = index.get(at).map_or(0, |&group| group as usize);
                let run = index[at.min(index.len())..].iter().take(codes.len() - at);
                let run = run.take_while(|&&next| next as usize == group).count().max(1);
                let of = |all: &[f32]| if group < all.len() { group..group + 1 } else { 0..0 };
                let one = Groups {
                    first: run,
                    size: run,
                    scales: &all.scales[of(all.scales)],
                    zeros: &all.zeros[of(all.zeros)],
                    offsets: &all.offsets[of(all.offsets)],
                    ..all
                };
                self.finish(&codes[at..at + run], one, &mut out[at..at + run]);
                at += run;
            }
            return;
        }
        let first = col / group;
        let count = (col + codes.len() - 1) / group - first + 1;
        let mut rows = [[0.0; MOST_GROUPS + 1]; 3];
        let all = self.terms(scaled, slice, row, first, rows.each_mut().map(|all| &mut all[..count]));
        self.finish(codes, Groups { first: (first + 1) * group - col, size: group, ..all }, out);
    }

    /// What the groups of `row` from `group` on share, in buffers for as many as are wanted.
    fn terms<'b>(
        &self,
        scaled: Scaled,
        slice: usize,
        row: usize,
        group: usize,
        [scales, zeros, offsets]: [&'b mut [f32]; 3],
    ) -> Groups<'b> {
        match scaled {
            Scaled::Bare => scales.fill(1.0),
            _ => self.scales(scaled, slice, row, group, scales),
        }
        let has_zeros = self.zeros(slice, row, group, zeros);
        let offset = self.quantized.form.offset.as_ref().filter(|_| scaled != Scaled::Bare);
        if let Some(grid) = offset {
            self.grid(grid, slice, row, group, offsets);
        }
        Groups {
            first: 0,
            size: 0,
            scales,
            less: 0.0,
            zeros: if has_zeros { zeros } else { &[] },
            offsets: if offset.is_some() { offsets } else { &[] },
        }
    }

    /// Fills `out` with the elements whose codes are of `groups`.
    fn finish(&self, codes: &[u8], groups: Groups<'_>, out: &mut [f32]) {
        match self.quantized.form.value {
            // Small whole numbers: their sum is exact.
            Value::Unsigned(less) => kernel::unsigned(codes, Groups { less: less as f32, ..groups }, out),
            Value::Signed => kernel::signed(codes, groups, out),
            Value::E2m1 => kernel::e2m1(codes, groups, out),
            Value::Book(_) => kernel::book(codes, &self.book, groups, out),
            Value::Float(DType::F8E4M3FN) => kernel::e4m3(codes, groups, out),
            Value::Float(dtype) => {
                read_numbers(dtype, codes, 0, out);
                kernel::numbers(groups, out);
            }
        }
    }

    /// Fills `out` with the numbers of `grid` for `row` and the groups from `group` on.
    fn grid(&self, grid: &Grid, slice: usize, row: usize, group: usize, out: &mut [f32]) {
        let at = slice * grid.slice_stride
            + row / grid.row_block.max(1) * grid.row_stride
            + group * grid.group_stride;
        match grid.group_stride {
            0 => {
                self.number_run(grid, at, &mut out[..1]);
                let first = out[0];
                out.fill(first);
            }
            1 => self.number_run(grid, at, out),
            stride => {
                for (nth, slot) in out.iter_mut().enumerate() {
                    self.number_run(grid, at + nth * stride, std::slice::from_mut(slot));
                }
            }
        }
    }

    fn number_run(&self, grid: &Grid, at: usize, out: &mut [f32]) {
        let bytes = &self.bytes[grid.part];
        match grid.numbers {
            Numbers::Plain(dtype) => read_numbers(number_type(dtype), bytes, at, out),
            Numbers::Tiled { dtype, .. } => {
                for (i, slot) in out.iter_mut().enumerate() {
                    let place = grid.numbers.place(at + i);
                    read_numbers(number_type(dtype), bytes, place, std::slice::from_mut(slot));
                }
            }
            Numbers::Nested { scale, block, offset, .. } => {
                let dtype = self.quantized.parts()[scale].tensor.dtype;
                let (mut known, mut factor) = (None, [0.0]);
                for (i, (slot, &code)) in out.iter_mut().zip(&bytes[at..]).enumerate() {
                    let nth = (at + i) / block.max(1);
                    if known != Some(nth) {
                        read_numbers(dtype, &self.bytes[scale], nth, &mut factor);
                        known = Some(nth);
                    }
                    *slot = self.nested[usize::from(code)] * factor[0] + f32::from_bits(offset);
                }
            }
        }
    }

    /// The scales of `row` for groups from `group` on, with the further factor if `scaled` says so.
    fn scales(&self, scaled: Scaled, slice: usize, row: usize, group: usize, out: &mut [f32]) {
        let form = &self.quantized.form;
        match &form.scale {
            None => out.fill(1.0),
            Some(grid) => self.grid(grid, slice, row, group, out),
        }
        if form.constant != 1.0 {
            out.iter_mut().for_each(|scale| *scale *= form.constant);
        }
        if let Some(Global { divides, .. }) = form.global.filter(|_| scaled == Scaled::Whole) {
            let factor = self.globals.get(slice).or(self.globals.first()).copied().unwrap_or(1.0);
            match divides {
                true => out.iter_mut().for_each(|scale| *scale /= factor),
                false => out.iter_mut().for_each(|scale| *scale *= factor),
            }
        }
    }

    /// The zero points of `row` for groups from `group` on; false if there are none.
    fn zeros(&self, slice: usize, row: usize, group: usize, out: &mut [f32]) -> bool {
        match &self.quantized.form.zero {
            Zero::None => return false,
            Zero::Numbers(grid) => self.grid(grid, slice, row, group, out),
            Zero::Packed { part, packed, by_row, plus } => {
                for (nth, slot) in out.iter_mut().enumerate() {
                    let group = group + nth;
                    let (a, b) = if *by_row { (row, group) } else { (group, row) };
                    *slot = (i32::from(packed.get(&self.bytes[*part], a, b)) + plus) as f32;
                }
            }
        }
        true
    }
}
