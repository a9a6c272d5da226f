"""The price of an option, by simulation: NumPy, and a seed for each run."""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, exp, log, sqrt

import numpy as np
from shoal import flow, task

Seed = np.random.SeedSequence


@dataclass(frozen=True)
class Call:
    """The right to buy a share at `strike` in some years."""

    share: float = 100.0
    strike: float = 105.0
    years: float = 1.0
    rate: float = 0.03
    volatility: float = 0.2


@task
def simulate(seed: Seed, call: Call, paths: int) -> np.ndarray:
    """Returns the sum of the present values, and that of their squares."""
    normal = np.random.default_rng(seed).standard_normal(paths)
    drift = (call.rate - call.volatility**2 / 2) * call.years
    spread = call.volatility * sqrt(call.years)
    ends = call.share * np.exp(drift + spread * normal)
    discount = exp(-call.rate * call.years)
    values = discount * np.maximum(ends - call.strike, 0)
    return np.array([values.sum(), (values**2).sum()])


@flow(task_runner="processes")
def price(call: Call, runs: int, paths: int) -> tuple[float, float]:
    """Returns the price, and its standard error."""
    seeds = Seed(2026).spawn(runs)
    sums = simulate.map(seeds, call, paths).result()
    mean, square = np.sum(sums, axis=0) / (runs * paths)
    return float(mean), sqrt((square - mean**2) / (runs * paths))


def black_scholes(call: Call) -> float:
    """The exact price (Black and Scholes 1973)."""
    spread = call.volatility * sqrt(call.years)
    d1 = log(call.share / call.strike) + call.rate * call.years
    d1 = d1 / spread + spread / 2
    strike = call.strike * exp(-call.rate * call.years)
    return call.share * normal_cdf(d1) - strike * normal_cdf(d1 - spread)


def normal_cdf(x: float) -> float:
    return (1 + erf(x / sqrt(2))) / 2


if __name__ == "__main__":
    call = Call()
    mean, error = price(call, runs=40, paths=50_000)
    exact = black_scholes(call)

    print(f"{mean:.3f} +/- {error:.3f}, exactly {exact:.3f}")
    # prints: 7.134 +/- 0.009, exactly 7.128
    assert abs(mean - exact) < 4 * error
    on_threads = price.with_options(task_runner="threads")
    assert on_threads(call, runs=40, paths=50_000) == (mean, error)
