"""The report's statistics, pure: means with 95 % intervals by a paired bootstrap over problems and seeds; Pearson's r.

Values are matrices (seeds, problems) of per-problem means over the samples. One resample draws as many problems and as
many seeds as there are, with replacement and independently of each other, and takes the same ones in every arm: so a
difference of two arms is resampled as the difference that it is, and what makes a problem hard cancels out. Crossing
the two draws errs towards wide intervals. With one seed only problems are drawn, and the interval says nothing of
what another seed would give; with three, of the seeds it says little.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from processors.adaptive import wilson

Matrix = NDArray[np.float64]

RESAMPLES = 10_000
Z = 1.959964
"""The 97.5th percentile of the standard normal distribution."""


class Estimate(msgspec.Struct, frozen=True):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Estimate":
        """In another unit."""
        return Estimate(self.mean * factor, self.low * factor, self.high * factor)


class Correlation(msgspec.Struct, frozen=True):
    """Pearson's r with its interval (Fisher's z); None where it is not defined."""

    pearson_r: float | None
    low: float | None
    high: float | None
    n: int


class Bootstrap:
    """The draws for one shape, the same ones each time.

    Args:
        seeds: rows of the matrices.
        problems: columns; at least one of each.
        resamples: how many draws.
    """

    def __init__(self, seeds: int, problems: int, resamples: int = RESAMPLES) -> None:
        self.shape = (seeds, problems)
        rng = np.random.default_rng(0)
        self._problems = _counts(rng, resamples, problems)
        self._seeds = _counts(rng, resamples, seeds) if seeds > 1 else np.ones((resamples, 1))

    def means(self, matrix: Matrix) -> Matrix:
        """The mean of each resample, (resamples,).

        Args:
            matrix: (seeds, problems).
        """
        assert matrix.shape == self.shape, f"{matrix.shape} is not {self.shape}"
        by_seed = matrix @ self._problems.T
        total: Matrix = np.einsum("sb,bs->b", by_seed, self._seeds)
        return total / matrix.size

    def mean(self, matrix: Matrix) -> Estimate:
        """The mean over everything; for a difference give the difference of two matrices."""
        return _estimate(float(matrix.mean()), self.means(matrix))

    def share(self, matrix: Matrix) -> Estimate:
        """As `mean`, of values in [0, 1]; where all are 0, or all 1, no resample differs: Wilson over problems."""
        if matrix.min() == matrix.max() and matrix.flat[0] in (0.0, 1.0):
            problems = self.shape[1]
            value = float(matrix.flat[0])
            return Estimate(value, *wilson(value * problems, problems))
        return self.mean(matrix)

    def ratio(self, above: Matrix, below: Matrix) -> Estimate | None:
        """sum(above) / sum(below), such as a share of all backtracks; None where nothing is below."""
        if below.sum() == 0:
            return None
        top, bottom = self.means(above), self.means(below)
        return _estimate(float(above.sum() / below.sum()), top[bottom > 0] / bottom[bottom > 0])


def _counts(rng: np.random.Generator, resamples: int, size: int) -> Matrix:
    """How often each of `size` things was drawn in each resample, (resamples, size)."""
    drawn = rng.integers(size, size=(resamples, size)) + np.arange(resamples)[:, None] * size
    counts = np.bincount(drawn.ravel(), minlength=resamples * size)
    return counts.reshape(resamples, size).astype(np.float64)


def _estimate(mean: float, resampled: Matrix) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(mean, float(low), float(high))


def pearson(pairs: Sequence[tuple[float, float]]) -> Correlation:
    """Pearson's r of pairs, and its 95 % interval tanh(atanh(r) +- 1.96 / sqrt(n - 3)).

    The interval takes the pairs for independent. Fewer than four pairs, or one side without spread, have no r.
    """
    n = len(pairs)
    if n < 4:
        return Correlation(None, None, None, n)
    x, y = np.asarray(pairs, dtype=np.float64).T
    x, y = x - x.mean(), y - y.mean()
    spread = math.sqrt(float(x @ x) * float(y @ y))
    if spread < 1e-12:
        return Correlation(None, None, None, n)
    r = max(-1.0, min(1.0, float(x @ y) / spread))
    if abs(r) > 1 - 1e-12:
        return Correlation(r, r, r, n)
    centre, reach = math.atanh(r), Z / math.sqrt(n - 3)
    return Correlation(r, math.tanh(centre - reach), math.tanh(centre + reach), n)


def at_budget(values: Mapping[int, Matrix], tokens: float, budget: float) -> Matrix | None:
    """What k samples a problem give at a budget of tokens, (seeds, problems).

    Args:
        values: pass@k or maj@k by k, 1 among them.
        tokens: the mean length of one sample.
        budget: tokens a problem; between two k the value is interpolated linearly in k.

    Returns:
        None where the budget buys fewer samples than the smallest k, or more than the largest; up to a twentieth less
        than one sample is one.
    """
    wanted, ks = budget / max(tokens, 1e-9), sorted(values)
    wanted = max(wanted, 1.0) if wanted >= 0.95 else wanted
    if not ks or not ks[0] <= wanted <= ks[-1]:
        return None
    above = next(k for k in ks if k >= wanted)
    below = max(k for k in ks if k <= wanted)
    share = 0.0 if above == below else (wanted - below) / (above - below)
    return (1 - share) * values[below] + share * values[above]
