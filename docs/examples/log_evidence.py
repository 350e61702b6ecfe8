"""The log evidence of a model by Monte Carlo, in one pass and in the memory of one block.

The evidence is the mean likelihood of draws from the prior, so its logarithm is
the logsumexp of their log likelihoods, less log(N). With 1000 observations the
likelihoods themselves are about exp(-1400), which is 0 in float64. The draws
are folded block by block and never kept. A second row of the state sums up the
squares, for the error of the mean.

The model is a Gaussian of known width with a Gaussian prior for its mean, of
which the evidence is known exactly.

    python docs/examples/log_evidence.py
"""

import math

import numpy as np

import numba_softmax as ns

WIDTH, PRIOR_WIDTH = 1.0, 2.0


def log_likelihood(means, y):
    """Of all observations `y`, for each of some means."""
    squares = np.sum((y - y.mean()) ** 2) + len(y) * (y.mean() - means) ** 2
    return -len(y) / 2 * math.log(2 * math.pi * WIDTH**2) - squares / (2 * WIDTH**2)


def exact_log_evidence(y):
    """The logarithm of the density of `y`, with the mean integrated out."""
    noise, spread = WIDTH**2, WIDTH**2 + len(y) * PRIOR_WIDTH**2
    squares = np.sum(y**2) - PRIOR_WIDTH**2 * np.sum(y) ** 2 / spread
    log_determinant = len(y) * math.log(2 * math.pi * noise) + math.log(spread / noise)
    return -(log_determinant + squares / noise) / 2


def log_evidence(y, draws, block=100_000, seed=0):
    """The estimate from so many draws, and its standard error."""
    rng = np.random.default_rng(seed)
    state = ns.OnlineSoftmax((2,), np.float64)
    for begin in range(0, draws, block):
        means = PRIOR_WIDTH * rng.standard_normal(min(block, draws - begin))
        log_l = log_likelihood(means, y)
        state.update(np.stack([log_l, 2 * log_l]))
    log_mean, log_mean_of_squares = state.lse - math.log(draws)
    return log_mean, math.sqrt(math.expm1(log_mean_of_squares - 2 * log_mean) / draws)


def main():
    """Print the estimate for ever more draws."""
    y = 0.7 + WIDTH * np.random.default_rng(1).standard_normal(1000)
    print(f"exact: {exact_log_evidence(y):.4f}")
    for draws in (1_000, 100_000, 10_000_000):
        estimate, error = log_evidence(y, draws)
        print(f"{draws:>10,} draws: {estimate:.4f} +- {error:.4f}")


if __name__ == "__main__":
    main()
