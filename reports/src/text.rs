//! Numbers for people to read.

use ckpt_inspect::TensorRecord;
use ckpt_inspect::health::measures::{Form, Measure, Value};

/// Three significant digits: `0.0123`, `8.2e-4`, `-` if unknown.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(0.0) => "0".into(),
        Some(v) if (1e-2..1e5).contains(&v.abs()) => {
            let digits = (2 - v.abs().log10().floor() as i32).clamp(0, 4) as usize;
            format!("{v:.digits$}")
        }
        Some(v) => format!("{v:.1e}"),
    }
}

/// The value of `measure` for `tensor`, as a table cell; `-` if there is none.
pub fn measured(measure: &Measure, tensor: Option<&TensorRecord>) -> String {
    match (tensor.and_then(|t| measure.value(t)), measure.form) {
        (Some(Value::Count(count)), _) => count.to_string(),
        (Some(Value::Real(value)), Form::Share) => format!("{:.1} %", 100.0 * value),
        (Some(Value::Real(value)), Form::Bits { .. }) => format!("{value:.2} bits"),
        (value, _) => number(value.map(Value::real)),
    }
}

/// 1234567 as `1.23 MB`.
pub fn bytes(n: u64) -> String {
    scaled(n, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// 1234567 as `1.23 M`.
pub fn count(n: u64) -> String {
    scaled(n, &["", "k", "M", "G", "T", "P"]).trim_end().to_string()
}

fn scaled(n: u64, units: &[&str]) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {}", units[unit])
}

/// `[768, 2048]`.
pub fn shape(sizes: &[u64]) -> String {
    let sizes: Vec<String> = sizes.iter().map(u64::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

/// `1 tensor`, `2 tensors`.
pub fn plural(n: usize, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        _ if noun.ends_with("ix") => format!("{n} {}ices", &noun[..noun.len() - 2]),
        _ => format!("{n} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_their_size() {
        for (value, text) in [
            (0.0, "0"),
            (0.0731, "0.0731"),
            (0.5, "0.500"),
            (12.345, "12.3"),
            (99_999.0, "99999"),
            (1e5, "1.0e5"),
            (-8.24e-4, "-8.2e-4"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number(Some(value)), text);
        }
        assert_eq!(
            (bytes(999), bytes(1000), bytes(1_141_685)),
            ("999 B".into(), "1.00 kB".into(), "1.14 MB".into())
        );
        assert_eq!((count(140_352), count(12)), ("140 k".into(), "12".into()));
        assert_eq!(
            (plural(1, "matrix"), plural(2, "matrix"), plural(0, "row")),
            ("1 matrix".into(), "2 matrices".into(), "0 rows".into())
        );
    }
}
