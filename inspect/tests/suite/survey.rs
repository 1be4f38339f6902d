//! Surveys against plain loops over the same elements.

use std::path::Path;

use ckpt_inspect::survey::{MAP_COLS, MAP_ROWS, survey};

const RUN: &str = "../tests/fixtures/collapse-run/step-04000.pt";

#[test]
fn norms_and_codes_are_those_of_the_elements() {
    let checkpoint = ckpt_inspect::open(Path::new(RUN)).unwrap();
    let mut ternary = 0;
    for tensor in checkpoint.tensors.iter().filter(|t| t.shape.len() == 2 && t.name.starts_with("model")) {
        let found = survey(&checkpoint, tensor).unwrap();
        let values = checkpoint.view::<f32>(tensor).unwrap();
        let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
        assert_eq!((found.rows, found.cols), (rows, cols));
        assert_eq!((found.map_rows, found.map_cols), (rows.min(MAP_ROWS), cols.min(MAP_COLS)));
        let close = |found: f64, wanted: f64| (found - wanted).abs() <= 1e-12 * wanted;
        for row in 0..rows {
            let norm = (0..cols).map(|c| f64::from(values[[row, c]]).powi(2)).sum::<f64>().sqrt();
            assert!(close(found.row_norms[row], norm), "{} row {row}", tensor.name);
        }
        for col in 0..cols {
            let norm = (0..rows).map(|r| f64::from(values[[r, col]]).powi(2)).sum::<f64>().sqrt();
            assert!(close(found.col_norms[col], norm), "{} column {col}", tensor.name);
        }
        assert_eq!(found.corner[1][2], f64::from(values[[1, 2]]));
        assert_eq!(found.map.iter().map(|c| c.count).sum::<u64>(), tensor.numel());
        let (_, occupancy) = checkpoint.measure(tensor, false).unwrap();
        assert_eq!(found.ternary, occupancy.is_some(), "{}", tensor.name);
        if let Some(occupancy) = occupancy {
            let share = |n: u64| n as f64 / tensor.numel() as f64;
            assert_eq!(share(found.map.iter().map(|c| c.neg).sum()), occupancy.neg, "{}", tensor.name);
            assert_eq!(share(found.map.iter().map(|c| c.pos).sum()), occupancy.pos, "{}", tensor.name);
            ternary += 1;
        }
        let (row, col) = (rows - 1, cols - 1);
        let last = found.map.last().unwrap();
        let lines = |n: usize, cells: usize| n - n * (cells - 1) / cells;
        let corner_cells = lines(rows, found.map_rows) * lines(cols, found.map_cols);
        assert_eq!(last.count, corner_cells as u64, "the last cell holds [{row}, {col}]");
    }
    assert_eq!(ternary, 14);
}

/// Elements of every block format and packing are read from any place as they are read whole.
#[test]
fn packed_tensors_have_the_values_they_decode_to() {
    for path in ["tests/data/every_type.gguf", "../tests/fixtures/packed/nano-healthy-2000-i2s.pt"] {
        let checkpoint = ckpt_inspect::open(Path::new(path)).unwrap();
        let mut surveyed = 0;
        for tensor in checkpoint.tensors.iter().filter(|t| t.shape.len() == 2) {
            let (Ok(found), Ok(values)) = (survey(&checkpoint, tensor), checkpoint.values(tensor)) else {
                continue;
            };
            let norm = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            let rows: f64 = found.row_norms.iter().map(|n| n * n).sum();
            // `values` rounds to f32.
            assert!((rows - norm).abs() <= 1e-7 * norm, "{path} {}: {rows} for {norm}", tensor.name);
            assert_eq!(found.corner[0][0] as f32, values[0], "{path} {}", tensor.name);
            surveyed += 1;
        }
        assert!(surveyed >= 14, "{path}: {surveyed}");
    }
}

#[test]
fn damaged_sparse_and_complex_tensors_are_typed_errors() {
    let checkpoint = ckpt_inspect::open(Path::new("../tests/fixtures/formats/truncated.pt")).unwrap();
    for tensor in &checkpoint.tensors {
        assert_eq!(survey(&checkpoint, tensor).is_err(), tensor.damage.is_some(), "{}", tensor.name);
    }
    let sparse = ckpt_inspect::open(Path::new("../tests/fixtures/formats/sparse.pt")).unwrap();
    let tensor = sparse.tensors.iter().find(|t| t.sparse.is_some()).unwrap();
    let error = survey(&sparse, tensor).unwrap_err();
    assert_eq!(error.kind, ckpt_inspect::ErrorKind::Unsupported);
}
