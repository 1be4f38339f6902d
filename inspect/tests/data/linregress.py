"""Writes linregress.json: lines, their errors and confidence intervals, by SciPy and NumPy."""
import json
import numpy as np
from scipy import stats

rng = np.random.default_rng(7)
lines = []
for n, slope, noise in [(3, -2.5e-4, 0.01), (9, -2e-3, 0.02), (50, 1e-5, 0.1), (400, -7e-4, 1.0)]:
    x = np.sort(rng.choice(20_000, n, replace=False)).astype(float)
    y = -3 + slope * x + noise * rng.standard_normal(n)
    r = stats.linregress(x, y)
    lines.append(dict(x=x.tolist(), y=y.tolist(), slope=r.slope, intercept=r.intercept, stderr=r.stderr,
                      r2=r.rvalue ** 2, half_width=stats.t.ppf(0.975, n - 2) * r.stderr))

# A common slope with a level for each group: ordinary least squares on indicator columns.
groups = [[(float(100 * t), float(level - 1e-3 * 100 * t + 0.05 * rng.standard_normal())) for t in range(n)]
          for n, level in [(6, -3), (9, -5), (4, 0)]]
rows = [[x] + [float(g == k) for k in range(3)] for g, points in enumerate(groups) for x, _ in points]
y = np.array([y for points in groups for _, y in points])
a = np.array(rows)
beta, residual, *_ = np.linalg.lstsq(a, y, rcond=None)
free = len(y) - 4
error = np.sqrt(residual[0] / free * np.linalg.inv(a.T @ a)[0, 0])
pooled = dict(groups=groups, slope=beta[0], stderr=error, half_width=stats.t.ppf(0.975, free) * error)
json.dump(dict(lines=lines, pooled=pooled), open("linregress.json", "w"))
