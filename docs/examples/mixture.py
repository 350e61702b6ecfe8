"""A mixture of Gaussians fitted by expectation maximization, with softmax inside the loop over points.

The E-step is one pass over the points in one `@njit` function: the log density
of a point under each component is written to a short row, `jit.logsumexp` of
that row is the point's log likelihood, and `jit.softmax` makes the
responsibilities of it in place. No array of all densities is kept, none can
underflow, and points are shared out to threads by `prange`.

    python docs/examples/mixture.py
"""

import numba
import numpy as np

from numba_softmax import jit


@numba.njit(parallel=True, cache=True)
def e_step(points, log_weights, means, precisions, responsibilities):
    """Write the responsibilities of components for points, and give the log likelihood.

    `points` are (n, d), `means` and `precisions`, those of each coordinate, (k, d).
    """
    n, d = points.shape
    log_likelihoods = np.empty(n)
    for i in numba.prange(n):
        row = responsibilities[i]
        for c in range(len(means)):
            log_density = log_weights[c] - 0.5 * d * np.log(2 * np.pi)
            for j in range(d):
                gap = points[i, j] - means[c, j]
                log_density += 0.5 * (np.log(precisions[c, j]) - gap * gap * precisions[c, j])
            row[c] = log_density
        log_likelihoods[i] = jit.logsumexp(row)
        jit.softmax(row, row)
    return log_likelihoods.sum()


def m_step(points, responsibilities):
    """The log weights, means and precisions that fit the points best."""
    counts = responsibilities.sum(axis=0)
    means = responsibilities.T @ points / counts[:, None]
    variances = responsibilities.T @ points**2 / counts[:, None] - means**2
    return np.log(counts / len(points)), means, 1 / np.maximum(variances, 1e-6)


def fit(points, components, steps, seed=0):
    """The parameters after some steps, the responsibilities they come from, and the log likelihood of each step."""
    means = np.random.default_rng(seed).choice(points, components, replace=False)
    parameters = np.full(components, -np.log(components)), means, np.ones_like(means)
    responsibilities = np.empty((len(points), components))
    history = []
    for _ in range(steps):
        history.append(e_step(points, *parameters, responsibilities))
        parameters = m_step(points, responsibilities)
    return parameters, responsibilities, history


def sample(n, seed=0):
    """Points of three clusters in the plane."""
    rng = np.random.default_rng(seed)
    centers = np.array([[-4.0, 0.0], [3.0, 3.0], [2.0, -4.0]])
    return centers[rng.choice(3, n, p=[0.5, 0.3, 0.2])] + rng.normal(0, 1, (n, 2)) * [1.0, 0.5]


def main():
    """Fit three clusters, and print what was found."""
    (log_weights, means, _), _, history = fit(sample(100_000), components=3, steps=40)
    print(f"log likelihood: {history[0]:.0f}, after {len(history)} steps {history[-1]:.0f}")
    for weight, mean in sorted(zip(np.exp(log_weights), means.round(2).tolist(), strict=True), reverse=True):
        print(f"weight {weight:.3f} at {mean}")


if __name__ == "__main__":
    main()
