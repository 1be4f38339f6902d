//! Opened checkpoints, and the elements of their tensors.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use ckpt_inspect::{DType, Elements, Error, I2sLayout, OpenOptions, SparseLayout, TensorInfo, metadata};
use pyo3::exceptions::{PyIndexError, PyMemoryError};
use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use rayon::prelude::*;

use crate::buffer::Borrowed;
use crate::failure;
use crate::selection::{Axis, Selection};
use crate::work::{interruptible, threads};

/// Elements that a thread decodes at a time, about.
const CHUNK: usize = 1 << 18;
const MORE_THAN_MEMORY: &str = "more elements than memory can hold";

/// An opened checkpoint. Nothing in it was executed.
#[pyclass(frozen, module = "ckpt_tools._native")]
pub struct Checkpoint {
    opened: Arc<ckpt_inspect::Checkpoint>,
    /// Where each name is, the first of equal ones.
    places: HashMap<String, usize>,
    stored: bool,
}

#[pymethods]
impl Checkpoint {
    /// Opens the file or folder at `path`; with `stored`, the tensors of quantized weights are listed as they are.
    #[new]
    #[pyo3(signature = (path, *, stored=false, i2s_layout=None))]
    fn new(py: Python<'_>, path: PathBuf, stored: bool, i2s_layout: Option<&str>) -> PyResult<Self> {
        let layout = i2s_layout.map(str::parse::<I2sLayout>).transpose();
        let layout = layout.map_err(|error| failure::usage(py, &error.to_string()))?;
        let mut options = OpenOptions::i2s(layout);
        options.stored = stored;
        let threads = threads()?;
        let open = move || threads.install(|| ckpt_inspect::open_with(path, &options));
        let opened =
            interruptible(py, &Arc::default(), open)?.map_err(|error| failure::raised(py, &error))?;
        let mut places = HashMap::new();
        for (i, tensor) in opened.tensors.iter().enumerate() {
            places.entry(tensor.name.clone()).or_insert(i);
        }
        Ok(Checkpoint { opened: Arc::new(opened), places, stored })
    }

    /// Names of all tensors, in file order.
    fn names(&self) -> Vec<&str> {
        self.opened.tensors.iter().map(|tensor| tensor.name.as_str()).collect()
    }

    /// The plain values beside the tensors, as JSON.
    fn metadata(&self) -> String {
        metadata::whole_json(&self.opened.metadata).to_string()
    }

    /// The container's name.
    #[getter]
    fn format(&self) -> String {
        self.opened.format.name()
    }

    /// What is wrong with the container, if something is.
    #[getter]
    fn damage(&self) -> Option<&str> {
        self.opened.damage.as_ref().map(|damage| damage.what.as_str())
    }

    /// The tensor called `name`.
    fn tensor(&self, py: Python<'_>, name: &str) -> PyResult<Tensor> {
        let info = match self.places.get(name) {
            Some(&place) => &self.opened.tensors[place],
            None => self.opened.tensor(name).map_err(|error| failure::raised(py, &error))?,
        };
        Ok(Tensor { checkpoint: self.opened.clone(), info: info.clone(), stored: self.stored })
    }
}

/// A tensor of a checkpoint.
#[pyclass(frozen, module = "ckpt_tools._native")]
#[derive(Clone)]
pub struct Tensor {
    checkpoint: Arc<ckpt_inspect::Checkpoint>,
    info: TensorInfo,
    stored: bool,
}

/// What elements are read as.
enum Form {
    /// Their own type, whose bytes have a size.
    Own(usize),
    /// Numbers in f32.
    Decoded,
    /// The bytes of blocks or packings.
    Raw,
}

impl Tensor {
    fn form(&self) -> Form {
        let TensorInfo { dtype, quantized, .. } = &self.info;
        match (dtype, dtype.element_size()) {
            (DType::QI8 | DType::QU8 | DType::QI32, Some(_)) if !self.stored => Form::Decoded,
            (_, Some(size)) if quantized.is_none() => Form::Own(size),
            // Types of less than a byte that are listed and not decoded.
            (DType::F4E2M1 | DType::F6E2M3 | DType::F6E3M2, _) => Form::Raw,
            _ if self.stored && quantized.is_none() => Form::Raw,
            _ => Form::Decoded,
        }
    }

    /// The shape of what is read.
    fn read_shape(&self) -> Vec<usize> {
        let shape = &self.info.shape;
        if !matches!(self.form(), Form::Raw) {
            return shape.clone();
        }
        let bytes = self.info.byte_len().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
        // Rows of blocks keep their rows; a packing may mix the rows.
        let rows = shape.split_last().map_or(1, |(_, rows)| rows.iter().product::<usize>());
        match (self.info.dtype, shape.split_last()) {
            (_, Some((last, outer))) if self.has_pairs() => outer.iter().copied().chain([last / 2]).collect(),
            (DType::Ggml(_), Some((_, outer))) if rows > 0 && bytes.is_multiple_of(rows) => {
                outer.iter().copied().chain([bytes / rows]).collect()
            }
            _ => vec![bytes],
        }
    }

    /// Whether it has numbers of four bits of which two fill a byte within each row, as PyTorch's type has them.
    fn has_pairs(&self) -> bool {
        let pairs = self.info.shape.last().is_some_and(|last| last.is_multiple_of(2));
        self.info.dtype == DType::F4E2M1 && pairs
    }

    fn raised(&self, py: Python<'_>, error: Error) -> PyErr {
        failure::raised(py, &error.in_tensor(&self.info.name).in_file(&self.checkpoint.path))
    }

    /// The type of what is read, by the name that PyTorch gives it.
    fn read_dtype(&self) -> &'static str {
        match self.form() {
            Form::Decoded => "float32",
            Form::Raw if self.has_pairs() => DType::F4E2M1X2.name(),
            Form::Raw => "uint8",
            Form::Own(_) => match self.info.dtype {
                DType::QI8 => "int8",
                DType::QU8 => "uint8",
                DType::QI32 => "int32",
                own => own.name(),
            },
        }
    }

    fn fill(&self, selection: &Selection, shape: &[usize], out: &mut [u8]) -> Result<(), Error> {
        if let Some(sparse) = &self.info.sparse {
            let what = format!("a sparse tensor ({}) has no array of all its elements", sparse.layout);
            return Err(Error::unsupported(what));
        }
        match self.form() {
            Form::Own(size) => self.fill_own(selection, size, out),
            Form::Raw => {
                let bytes = self.info.bytes()?;
                let strides = ckpt_inspect::contiguous_strides(shape);
                selection.gather(&bytes, &strides, 1, out);
                Ok(())
            }
            Form::Decoded => self.fill_decoded(selection, out),
        }
    }

    fn fill_own(&self, selection: &Selection, size: usize, out: &mut [u8]) -> Result<(), Error> {
        let TensorInfo { shape, strides, .. } = &self.info;
        if let Some(bytes) = self.info.borrowed() {
            selection.gather(bytes, strides, size, out);
            return Ok(());
        }
        if selection.is_all(shape) || self.info.stretch(0, 0).is_none() {
            let strides = ckpt_inspect::contiguous_strides(shape);
            selection.gather(&self.info.bytes()?, &strides, size, out);
            return Ok(());
        }
        let mut done = 0;
        selection.runs(shape, |start, count| {
            let part = self.info.stretch(start as u64, count as u64);
            let part = part.ok_or_else(|| Error::damaged("its elements are not where they should be"))?;
            let bytes = part.bytes()?;
            out[done..done + bytes.len()].copy_from_slice(&bytes);
            done += bytes.len();
            Ok(())
        })
    }

    fn fill_decoded(&self, selection: &Selection, out: &mut [u8]) -> Result<(), Error> {
        if let Some(damage) = &self.info.damage {
            return Err(damage.into());
        }
        let elements = self.checkpoint.elements(&self.info)?.real()?;
        elements.check_codes()?;
        match bytemuck::try_cast_slice_mut::<u8, f32>(out) {
            Ok(values) => decode(&elements, selection, &self.info.shape, values),
            Err(_) => {
                let mut values = vec![0.0; out.len() / 4];
                decode(&elements, selection, &self.info.shape, &mut values);
                out.copy_from_slice(bytemuck::cast_slice(&values));
            }
        }
        Ok(())
    }
}

/// Fills `out` with what is selected of `elements`, which have `shape`.
fn decode(elements: &Elements<'_>, selection: &Selection, shape: &[usize], out: &mut [f32]) {
    let mut runs = Vec::new();
    let mut left = out;
    let unit = CHUNK.div_ceil(elements.granule()) * elements.granule();
    let cut = selection.runs(shape, |mut start, mut count| {
        while count > 0 {
            // A piece ends where a block does, so that none is decoded twice.
            let n = (unit - start % unit).min(count);
            let (part, rest) = std::mem::take(&mut left).split_at_mut(n);
            runs.push((start, part));
            (left, start, count) = (rest, start + n, count - n);
        }
        Ok::<(), std::convert::Infallible>(())
    });
    let Ok(()) = cut;
    runs.into_par_iter().with_min_len(16).for_each(|(start, part)| elements.read_f32(start, part));
}

#[pymethods]
impl Tensor {
    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.info.name
    }

    /// The type of its elements, or how they are packed, as `ckpt inspect` names it.
    #[getter]
    fn dtype(&self) -> String {
        self.info.dtype.to_string()
    }

    /// The type of what `read` gives, by its name in PyTorch.
    #[getter]
    fn element(&self) -> &str {
        self.read_dtype()
    }

    /// The shape of what is read.
    #[getter]
    fn shape(&self) -> Vec<usize> {
        self.read_shape()
    }

    /// From element to element of each dimension, in elements.
    #[getter]
    fn strides(&self) -> Vec<usize> {
        self.info.strides.clone()
    }

    /// `weights`, `optimizer` or `other`.
    #[getter]
    fn group(&self) -> &str {
        self.info.group.name()
    }

    /// The file and the position of the storage that it is on, the storage's length, and its own position in that; `None`
    /// where the file does not have its elements as they are.
    fn place(&self) -> Option<(PathBuf, u64, u64, u64)> {
        let storage = self.info.storage.as_ref().filter(|_| matches!(self.form(), Form::Own(_)))?;
        self.info.borrowed()?;
        let (path, offset) = storage.place()?;
        Some((path.to_path_buf(), offset, storage.byte_len(), self.info.byte_offset))
    }

    /// Whether the file of its place is still the one that was opened.
    fn is_current(&self) -> bool {
        self.info.storage.as_ref().is_some_and(ckpt_inspect::Storage::is_current)
    }

    /// Its elements where they are mapped; `None` where they must be copied.
    fn borrowed(&self) -> Option<Borrowed> {
        matches!(self.form(), Form::Own(_)).then(|| Borrowed::of(&self.info))?
    }

    /// The elements that are selected by first index, number and step in each dimension, in order.
    fn read<'py>(
        &self,
        py: Python<'py>,
        selection: Vec<(usize, usize, usize)>,
    ) -> PyResult<Bound<'py, PyByteArray>> {
        let axes = selection.into_iter().map(|(start, count, step)| Axis { start, count, step });
        self.copied(py, Selection(axes.collect()))
    }

    /// All elements.
    fn read_all<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyByteArray>> {
        self.copied(py, Selection::all(&self.read_shape()))
    }

    /// Layout, indices and values of a sparse tensor; `None` for others.
    fn sparse(&self) -> Option<(String, Vec<Tensor>, Tensor)> {
        let sparse = self.info.sparse.as_deref()?;
        let part = |info: &TensorInfo| Tensor {
            checkpoint: self.checkpoint.clone(),
            info: info.clone(),
            stored: self.stored,
        };
        let layout = match sparse.layout {
            SparseLayout::Coo => "coo",
            SparseLayout::Csr => "csr",
            SparseLayout::Csc => "csc",
            SparseLayout::Bsr => "bsr",
            SparseLayout::Bsc => "bsc",
            _ => "other",
        };
        Some((layout.into(), sparse.indices.iter().map(part).collect(), part(&sparse.values)))
    }

    /// Raises if its bytes are known to be damaged.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        match &self.info.damage {
            Some(damage) => Err(self.raised(py, damage.into())),
            None => Ok(()),
        }
    }
}

impl Tensor {
    fn copied<'py>(&self, py: Python<'py>, selection: Selection) -> PyResult<Bound<'py, PyByteArray>> {
        let shape = self.read_shape();
        if !selection.fits(&shape) {
            return Err(PyIndexError::new_err("the selection is not within the tensor"));
        }
        let size = match self.form() {
            Form::Own(size) => size,
            Form::Decoded => 4,
            Form::Raw => 1,
        };
        let whole = Selection::all(&shape).len();
        let len = whole.and_then(|_| selection.len()?.checked_mul(size));
        let len = len.ok_or_else(|| PyMemoryError::new_err(MORE_THAN_MEMORY))?;
        // What cannot be read is refused before memory is asked for.
        self.check(py)?;
        self.may_expand().map_err(|error| self.raised(py, error))?;
        let threads = threads()?;
        if ckpt_inspect::stored::is_remote(&self.checkpoint.path) {
            // A server may take its time. Who no longer waits leaves the buffer to the thread that fills it.
            let (tensor, shape) = (self.clone(), shape);
            let fetched = interruptible(py, &Arc::default(), move || {
                let mut out = Vec::new();
                let fits = out.try_reserve_exact(len).map_err(|_| Error::unsupported(MORE_THAN_MEMORY));
                fits.and_then(|()| {
                    out.resize(len, 0);
                    threads.install(|| tensor.fill(&selection, &shape, &mut out))
                })
                .map(|()| out)
            })?;
            return Ok(PyByteArray::new(py, &fetched.map_err(|error| self.raised(py, error))?));
        }
        PyByteArray::new_with(py, len, |out| {
            let filled = py.detach(|| threads.install(|| self.fill(&selection, &shape, out)));
            filled.map_err(|error| self.raised(py, error))
        })
    }

    /// Refuses a tensor without bytes that would take memory for all the elements that it claims.
    fn may_expand(&self) -> Result<(), Error> {
        match (&self.info.storage, &self.info.sparse) {
            (None, None) => Err(Error::unsupported("it was saved without data of its own")),
            _ => Ok(()),
        }
    }
}
