//! Matrix products on f32 views, by the `gemm-f32` crate, one thread each: callers divide the work, always in the same
//! way, so that results do not depend on how many threads there are.

use gemm_common::Parallelism;

/// A matrix that is read: element (r, c) is at `r * row_stride + c * col_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major and dense.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Row-major, rows `row_stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        Matrix { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transposed matrix.
    pub fn t(self) -> Self {
        Matrix {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A row-major matrix that is written, rows `row_stride` apart.
pub(crate) struct MatrixMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// Row-major and dense.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        MatrixMut { data, rows, cols, row_stride: cols }
    }
}

/// Elements of the slice that a view of this shape reaches.
fn span(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

/// `c = alpha * a . b`, or with `add` `c += alpha * a . b`.
pub(crate) fn matmul(c: MatrixMut<'_>, a: Matrix<'_>, b: Matrix<'_>, alpha: f32, add: bool) {
    let (m, n, k) = (c.rows, c.cols, a.cols);
    assert!(a.rows == m && b.cols == n && b.rows == k, "shapes of a product fit");
    for (matrix, len) in [(a, a.data.len()), (b, b.data.len())] {
        assert!(span(matrix.rows, matrix.cols, matrix.row_stride, matrix.col_stride) <= len);
    }
    assert!(span(m, n, c.row_stride, 1) <= c.data.len() && (c.row_stride >= n || m <= 1));
    // SAFETY: all three views lie within their slices (checked above), `c` is borrowed exclusively and no two of its
    // elements coincide. The kernel writes columns, so it is given the transposed product, bᵀ aᵀ.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            n,
            m,
            k,
            c.data.as_mut_ptr(),
            c.row_stride as isize,
            1,
            add,
            b.data.as_ptr(),
            b.row_stride as isize,
            b.col_stride as isize,
            a.data.as_ptr(),
            a.row_stride as isize,
            a.col_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_strided_views_are_those_of_their_elements() {
        let (m, n, k, stride) = (7, 5, 9, 12);
        let a: Vec<f32> = (0..m * stride).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.61).cos()).collect();
        let mut c = vec![1.0; m * n];
        matmul(
            MatrixMut::new(&mut c, m, n),
            Matrix::strided(&a, m, k, stride),
            Matrix::new(&b, n, k).t(),
            0.5,
            true,
        );
        for r in 0..m {
            for col in 0..n {
                let exact: f32 = (0..k).map(|i| a[r * stride + i] * b[col * k + i]).sum();
                assert!((c[r * n + col] - (1.0 + 0.5 * exact)).abs() < 1e-5);
            }
        }
    }

    #[test]
    #[should_panic(expected = "fit")]
    fn shapes_must_fit() {
        matmul(
            MatrixMut::new(&mut [0.0; 4], 2, 2),
            Matrix::new(&[0.0; 6], 2, 3),
            Matrix::new(&[0.0; 4], 2, 2),
            1.0,
            false,
        );
    }
}
