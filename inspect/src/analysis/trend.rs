//! Straight lines through measurements over steps: slope with its confidence interval, and where the slope changes.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// A least-squares line y = mean_y + slope * (x - mean_x).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Line {
    /// Change of y per unit of x.
    pub slope: f64,
    /// Mean of the points' x.
    pub mean_x: f64,
    /// Mean of the points' y.
    pub mean_y: f64,
    /// Standard error of the slope; `None` if there are only as many points as parameters.
    pub error: Option<f64>,
    /// Degrees of freedom of the error.
    pub freedom: u64,
    /// Share of the variance of y that the line explains, 0 to 1; 1 for points on the line.
    pub r2: f64,
    /// Points.
    pub points: u64,
}

impl Line {
    /// The line through `points` (x, y). `None` below two different x.
    ///
    /// Slope Sxy / Sxx, standard error sqrt((Syy - slope * Sxy) / (n - 2) / Sxx), R² = 1 - residual / Syy.
    pub fn fit(points: &[(f64, f64)]) -> Option<Line> {
        Line::pooled(&[points])
    }

    /// The line whose slope is common to `groups` of points, each with a level of its own: the analysis of covariance
    /// within groups, n - groups - 1 degrees of freedom. `mean_x` and `mean_y` are means of all points.
    pub fn pooled(groups: &[&[(f64, f64)]]) -> Option<Line> {
        let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
        let (mut n, mut levels, mut sum) = (0, 0, (0.0, 0.0));
        let centred = |points: &[(f64, f64)]| {
            let n = points.len() as f64;
            let mean = points.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
            (mean.0 / n, mean.1 / n)
        };
        let mut means = Vec::new();
        for points in groups.iter().filter(|points| !points.is_empty()) {
            let (mean_x, mean_y) = centred(points);
            for (x, y) in points.iter() {
                xx += (x - mean_x).powi(2);
                xy += (x - mean_x) * (y - mean_y);
                yy += (y - mean_y).powi(2);
            }
            n += points.len();
            levels += 1;
            sum = (sum.0 + mean_x * points.len() as f64, sum.1 + mean_y * points.len() as f64);
            means.push((points, mean_x, mean_y));
        }
        let slope = xy / xx;
        if !(slope.is_finite() && xx > 0.0) {
            return None;
        }
        // From the residuals themselves: the difference of sums would be noise where the points lie on the line.
        let residual: f64 = means
            .iter()
            .flat_map(|(points, x, y)| points.iter().map(move |p| (p.1 - y - slope * (p.0 - x)).powi(2)))
            .sum();
        let freedom = (n as u64).saturating_sub(levels + 1);
        Some(Line {
            slope,
            mean_x: sum.0 / n as f64,
            mean_y: sum.1 / n as f64,
            error: (freedom > 0).then(|| (residual / freedom as f64 / xx).sqrt()),
            freedom,
            r2: if yy > 0.0 { (1.0 - residual / yy).clamp(0.0, 1.0) } else { 1.0 },
            points: n as u64,
        })
    }

    /// y of the line at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.mean_y + self.slope * (x - self.mean_x)
    }

    /// Half the width of the two-sided 95 % confidence interval of the slope: its error times the quantile of
    /// Student's t. Residuals of neighbouring checkpoints are correlated, so it tends to be too narrow.
    pub fn half_width(&self) -> Option<f64> {
        let student = StudentsT::new(0.0, 1.0, self.freedom as f64).ok()?;
        Some(self.error? * student.inverse_cdf(0.975))
    }
}

/// Residuals of ln std below this (root mean square) do not justify another segment.
const NOISE: f64 = 0.005;
/// The most pieces, and no more than one for every three points.
const MOST_PIECES: usize = 8;
/// Slopes change at the points of a grid of this size, and are then refined between grid points.
const GRID: usize = 128;

/// Sums over a prefix of the points.
#[derive(Clone, Copy, Default)]
struct Sums {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

/// Prefix sums of points that were centred and, in x, scaled.
struct Prefix(Vec<Sums>);

impl Prefix {
    fn new(points: &[(f64, f64)]) -> Prefix {
        let n = points.len() as f64;
        let mean = |part: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(part).sum::<f64>() / n;
        let (mean_x, mean_y) = (mean(&|p| p.0), mean(&|p| p.1));
        let width = points.iter().map(|p| (p.0 - mean_x).abs()).fold(f64::MIN_POSITIVE, f64::max);
        let mut sums = vec![Sums::default()];
        let mut all = Sums::default();
        for (x, y) in points {
            let (x, y) = ((x - mean_x) / width, y - mean_y);
            all = Sums {
                n: all.n + 1.0,
                x: all.x + x,
                y: all.y + y,
                xx: all.xx + x * x,
                xy: all.xy + x * y,
                yy: all.yy + y * y,
            };
            sums.push(all);
        }
        Prefix(sums)
    }

    /// Squared residuals of the line through points `first..=last`.
    fn residual(&self, first: usize, last: usize) -> f64 {
        let (a, b) = (&self.0[first], &self.0[last + 1]);
        let n = b.n - a.n;
        let (x, y) = (b.x - a.x, b.y - a.y);
        let xx = b.xx - a.xx - x * x / n;
        let xy = b.xy - a.xy - x * y / n;
        let yy = b.yy - a.yy - y * y / n;
        let explained = if xx > 0.0 { xy * xy / xx } else { 0.0 };
        (yy - explained).max(0.0)
    }
}

/// Where the slope of `points` changes: consecutive pieces, each with its first and last point, neighbours sharing one.
/// Each piece has its own least-squares line. Among up to eight pieces, those of the least Bayesian information
/// criterion n ln(max(RSS / n, NOISE²)) + (3 pieces - 1) ln n are taken (slope and level each, and the points between
/// them). x must rise. Empty for fewer than two points.
pub fn pieces(points: &[(f64, f64)]) -> Vec<RangeInclusive<usize>> {
    let n = points.len();
    if n < 2 {
        return Vec::new();
    }
    let prefix = Prefix::new(points);
    let criterion = |residual: f64, pieces: usize| {
        let n = n as f64;
        n * (residual / n).max(NOISE * NOISE).ln() + (3 * pieces - 1) as f64 * n.ln()
    };
    let whole = prefix.residual(0, n - 1);
    let most = MOST_PIECES.min(n / 3);
    if most < 2 || whole / n as f64 <= NOISE * NOISE {
        return vec![0..=n - 1];
    }
    let count = n.min(GRID);
    let grid: Vec<usize> = (0..count).map(|g| g * (n - 1) / (count - 1)).collect();
    // best[k][g]: least residual of k + 1 pieces that end at grid point g, and where the last one begins.
    let mut best: Vec<Vec<(f64, usize)>> =
        vec![grid.iter().map(|&g| (if g > 0 { prefix.residual(0, g) } else { 0.0 }, 0)).collect()];
    let mut chosen = (criterion(whole, 1), 1);
    for k in 1..most {
        let before = &best[k - 1];
        let row: Vec<(f64, usize)> = (0..count)
            .map(|g| {
                (k..g)
                    .map(|from| (before[from].0 + prefix.residual(grid[from], grid[g]), from))
                    .min_by(|a, b| a.0.total_cmp(&b.0))
                    .unwrap_or((f64::INFINITY, 0))
            })
            .collect();
        let found = criterion(row[count - 1].0, k + 1);
        if found < chosen.0 {
            chosen = (found, k + 1);
        }
        best.push(row);
    }
    let mut ends = vec![n - 1];
    let mut g = count - 1;
    for k in (1..chosen.1).rev() {
        g = best[k][g].1;
        ends.push(grid[g]);
    }
    ends.push(0);
    ends.reverse();
    let step = (n - 1) / (count - 1);
    for i in 1..ends.len() - 1 {
        let (low, high) = (ends[i - 1] + 1, ends[i + 1] - 1);
        let (left, right) = (ends[i - 1], ends[i + 1]);
        ends[i] = (ends[i].saturating_sub(step).max(low)..=(ends[i] + step).min(high))
            .min_by(|&a, &b| {
                let cost = |at: usize| prefix.residual(left, at) + prefix.residual(at, right);
                cost(a).total_cmp(&cost(b))
            })
            .unwrap_or(ends[i]);
    }
    ends.windows(2).map(|w| w[0]..=w[1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_slope_error_and_interval_of_scipy() {
        // scipy.stats.linregress, and stats.t.ppf(0.975, n - 2) * stderr: tests/data/linregress.py.
        let truth: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/data/linregress.json")).unwrap();
        for case in truth["lines"].as_array().unwrap() {
            let numbers = |key: &str| -> Vec<f64> {
                case[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
            };
            let points: Vec<(f64, f64)> = numbers("x").into_iter().zip(numbers("y")).collect();
            let line = Line::fit(&points).unwrap();
            let close = |found: f64, key: &str| {
                let wanted = case[key].as_f64().unwrap();
                assert!((found / wanted - 1.0).abs() < 1e-9, "{key}: {found}, not {wanted}");
            };
            close(line.slope, "slope");
            close(line.error.unwrap(), "stderr");
            close(line.r2, "r2");
            close(line.half_width().unwrap(), "half_width");
            close(line.at(0.0), "intercept");
        }
        let case = &truth["pooled"];
        let groups: Vec<Vec<(f64, f64)>> = serde_json::from_value(case["groups"].clone()).unwrap();
        let groups: Vec<&[(f64, f64)]> = groups.iter().map(Vec::as_slice).collect();
        let line = Line::pooled(&groups).unwrap();
        for (found, key) in [
            (line.slope, "slope"),
            (line.error.unwrap(), "stderr"),
            (line.half_width().unwrap(), "half_width"),
        ] {
            let wanted = case[key].as_f64().unwrap();
            assert!((found / wanted - 1.0).abs() < 1e-9, "{key}: {found}, not {wanted}");
        }
    }

    #[test]
    fn degenerate_points_have_no_line() {
        assert_eq!(Line::fit(&[]), None);
        assert_eq!(Line::fit(&[(1.0, 2.0)]), None);
        assert_eq!(Line::fit(&[(1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(Line::fit(&[(1.0, f64::NAN), (2.0, 3.0)]), None);
        let two = Line::fit(&[(0.0, 1.0), (2.0, 5.0)]).unwrap();
        assert_eq!((two.slope, two.error, two.half_width(), two.r2), (2.0, None, None, 1.0));
        let flat = Line::fit(&[(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]).unwrap();
        assert_eq!((flat.slope, flat.error, flat.r2), (0.0, Some(0.0), 1.0));
    }

    /// Deterministic noise, uniform in -1 to 1.
    fn noise(seed: &mut u64) -> f64 {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*seed >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    #[test]
    fn pieces_begin_where_the_slope_changes() {
        for (n, at, spread) in [(12, 5, 0.0), (40, 25, 0.02), (1000, 617, 0.05), (3000, 1234, 0.05)] {
            let mut seed = 7;
            let points: Vec<(f64, f64)> = (0..n)
                .map(|i| {
                    let t = 100.0 * i as f64;
                    let fall = 1e-4 * (t - 100.0 * at as f64).max(0.0) * 2000.0 / n as f64;
                    (t, -fall + spread * noise(&mut seed))
                })
                .collect();
            let found = pieces(&points);
            assert_eq!(found.len(), 2, "{n} points: {found:?}");
            let slack = n / 50;
            assert!(found[0].end().abs_diff(at) <= slack, "{n} points: {found:?}");
            assert_eq!((*found[0].start(), *found[1].end()), (0, n - 1));
        }
    }

    #[test]
    fn noise_alone_bends_nothing() {
        for seed in 1..20 {
            let mut state = seed;
            let points: Vec<(f64, f64)> =
                (0..60).map(|i| (i as f64, -0.01 * i as f64 + 0.1 * noise(&mut state))).collect();
            assert_eq!(pieces(&points), [0..=59], "seed {seed}");
        }
        assert_eq!(pieces(&[]), []);
        assert_eq!(pieces(&[(0.0, 1.0)]), []);
        assert_eq!(pieces(&[(0.0, 1.0), (1.0, 0.0)]), [0..=1]);
    }
}
