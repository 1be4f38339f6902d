//! Memory that Python and Rust share, by the buffer protocol.

use std::ffi::c_int;
use std::ptr;

use ckpt_inspect::TensorInfo;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

/// The bytes of a tensor where its file is mapped: read-only, and there as long as anything uses them.
#[pyclass(frozen, module = "ckpt_tools._native")]
pub struct Borrowed(TensorInfo);

impl Borrowed {
    /// The bytes from the first to the last element of `tensor`, if they can be used as they are.
    pub fn of(tensor: &TensorInfo) -> Option<Self> {
        tensor.borrowed()?;
        Some(Borrowed(tensor.clone()))
    }
}

#[pymethods]
impl Borrowed {
    fn __len__(&self) -> usize {
        self.0.borrowed().map_or(0, <[u8]>::len)
    }

    /// # Safety
    /// Python calls it with a `view` that it may fill.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let bytes = slf.get().0.borrowed().ok_or_else(|| PyBufferError::new_err("its file is gone"))?;
        let len = ffi::Py_ssize_t::try_from(bytes.len())?;
        let start = ptr::from_ref(bytes).cast::<std::ffi::c_void>().cast_mut();
        // SAFETY: the view is valid. It keeps a reference to `slf`, whose tensor holds the map that the bytes are in, and it
        // is read-only: nobody writes through `start`.
        match unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 1, flags) } {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }
}

/// The memory of an object of Python, which it keeps. Python may change the bytes at any time, as another process may
/// change those of a mapped file: only bytes are borrowed.
pub struct Lent {
    buffer: PyUntypedBuffer,
    len: usize,
}

impl Lent {
    /// The memory of `object`, from its first element to its last.
    ///
    /// # Errors
    /// `TypeError` for an object without the buffer protocol, `ValueError` for one whose elements are not in order.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        let mut reach = buffer.item_size();
        for (&size, &stride) in buffer.shape().iter().zip(buffer.strides()) {
            let step = usize::try_from(stride)
                .map_err(|_| PyValueError::new_err("a stride is negative; copy the array first"))?;
            reach = (size.saturating_sub(1))
                .checked_mul(step)
                .and_then(|more| reach.checked_add(more))
                .ok_or_else(|| PyValueError::new_err("its size overflows"))?;
        }
        let len = if buffer.item_count() == 0 { 0 } else { reach };
        Ok(Lent { buffer, len })
    }

    /// Where it is, and how long: equal for tensors that share their memory.
    pub fn place(&self) -> (usize, usize) {
        (self.buffer.buf_ptr().addr(), self.len)
    }

    /// Sizes of its dimensions.
    pub fn shape(&self) -> Vec<usize> {
        self.buffer.shape().to_vec()
    }

    /// From element to element of each dimension, in elements; `None` where these are no whole numbers.
    pub fn strides(&self) -> Option<Vec<usize>> {
        let size = self.buffer.item_size();
        let step = |&stride: &isize| {
            usize::try_from(stride).ok().filter(|step| step.is_multiple_of(size)).map(|step| step / size)
        };
        self.buffer.strides().iter().map(step).collect()
    }

    /// Bytes of an element.
    pub fn item_size(&self) -> usize {
        self.buffer.item_size()
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the exporter keeps the memory where it is as long as the buffer is not released, from its first element on
        // (no stride is negative) to the last, which `len` counts to.
        unsafe { std::slice::from_raw_parts(self.buffer.buf_ptr().cast::<u8>(), self.len) }
    }
}
