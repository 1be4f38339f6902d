//! TEMP
#![allow(missing_docs)]
use crate::DType;
use crate::record::{Stats, Ternary};
pub enum Elements<'a> {
    Plain { dtype: DType, bytes: &'a [u8] },
    Decoded32 { len: usize, granule: usize, read: &'a (dyn Fn(usize, &mut [f32]) + Sync) },
    Decoded64 { len: usize, granule: usize, read: &'a (dyn Fn(usize, &mut [f64]) + Sync) },
}
pub enum TernaryRule {
    Absmean { eps: f64, per_row: bool },
    Codes,
}
pub struct Plan {
    pub cols: Option<usize>,
    pub ternary: Option<TernaryRule>,
    pub histogram: bool,
}
pub struct Measured {
    pub stats: Stats,
    pub ternary: Option<Ternary>,
}
pub fn to_f32(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(to_f64(dtype, bytes)?.into_iter().map(|x| x as f32).collect())
}
fn to_f64(dtype: DType, b: &[u8]) -> Option<Vec<f64>> {
    let n = dtype.element_size()?;
    b.chunks_exact(n)
        .map(|w| {
            Some(match dtype {
                DType::F8E4M3FN => float8::F8E4M3::from_bits(w[0]).to_f64(),
                DType::F8E5M2 => float8::F8E5M2::from_bits(w[0]).to_f64(),
                d => match crate::torch::scalar(d, w)? {
                    serde_pickle::Value::F64(f) => f,
                    serde_pickle::Value::I64(f) => f as f64,
                    serde_pickle::Value::Bool(f) => f as u8 as f64,
                    _ => return None,
                },
            })
        })
        .collect()
}
pub fn measure(e: &Elements<'_>, plan: &Plan) -> Measured {
    let v: Vec<f64> = match e {
        Elements::Plain { dtype, bytes } => to_f64(*dtype, bytes).unwrap_or_default(),
        Elements::Decoded32 { len, read, .. } => {
            let mut o = vec![0f32; *len];
            read(0, &mut o);
            o.into_iter().map(f64::from).collect()
        }
        Elements::Decoded64 { len, read, .. } => {
            let mut o = vec![0f64; *len];
            read(0, &mut o);
            o
        }
    };
    let f: Vec<f64> = v.iter().copied().filter(|x| x.is_finite()).collect();
    let n = f.len() as f64;
    let mean = f.iter().sum::<f64>() / n;
    let var = f.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0);
    let am = f.iter().map(|x| x.abs()).sum::<f64>() / n;
    let some = |x: f64| (!f.is_empty()).then_some(x);
    let stats = Stats {
        count: v.len() as u64,
        mean: some(mean),
        std: (f.len() > 1).then(|| var.sqrt()),
        min: some(f.iter().copied().fold(f64::INFINITY, f64::min)),
        max: some(f.iter().copied().fold(-f64::INFINITY, f64::max)),
        abs_mean: some(am),
        abs_max: some(f.iter().map(|x| x.abs()).fold(0.0, f64::max)),
        zeros: f.iter().filter(|x| **x == 0.0).count() as u64,
        nan: v.iter().filter(|x| x.is_nan()).count() as u64,
        inf: v.iter().filter(|x| x.is_infinite()).count() as u64,
        histogram: None,
    };
    let ternary = plan.ternary.as_ref().map(|_| {
        let ws = am + 1e-8;
        let z = f.iter().filter(|x| x.abs() / ws <= 0.5).count() as f64 / n;
        let p = f.iter().filter(|x| **x / ws > 0.5).count() as f64 / n;
        Ternary {
            neg: 1.0 - z - p,
            zero: z,
            pos: p,
            entropy_bits: 0.0,
            scale: Some(ws),
            dead_rows: 0,
            dead_cols: 0,
        }
    });
    Measured { stats, ternary }
}
