"""The measurements of Ray run. All samples share an instance, which takes seconds to start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from shoal_bench.suites import measurements_of
from shoal_bench.workloads import make_array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shoal_bench.suites.clusters import Native
    from shoal_bench.suites.ray import RaySamples

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_leave(
        "threads",
        "processes",
        "fds",
        reason="an instance starts processes and threads as it needs them, and Ray keeps what it has opened once",
    ),
]


@pytest.fixture(scope="module")
def samples() -> Iterator[RaySamples]:
    from shoal_bench.suites import ray

    ray.instance()
    yield ray.RaySamples()
    ray.leave()


@pytest.mark.usefixtures("samples")
@pytest.mark.parametrize(
    "name",
    [
        *("submit", "map", "round-trip", "chain", "chain-of-work", "long"),
        "array",
        pytest.param("first-result", marks=pytest.mark.exhaustive),  # starts instances
    ],
)
def test_ray_is_sampled(name: str) -> None:
    """One small sample of each side."""
    (measurement,) = (m for m in measurements_of("ray") if m.name == name)
    size = min(measurement.quick_size or measurement.size, 100)
    for sampler in (measurement.ours, measurement.bare, *measurement.also.values()):
        assert sampler(size) > 0


def test_only_a_reference_of_an_array_passes_through_the_driver(samples: RaySamples) -> None:
    (measurement,) = (m for m in measurements_of("ray") if m.name == "array-bytes")
    for sampler in (measurement.ours, measurement.bare):
        assert 500 < sampler(4) < measurement.floor


def test_an_array_that_the_driver_takes_is_counted(samples: RaySamples) -> None:
    def fetched(client: Native) -> bool:
        with samples.traffic() as count:
            client.gather(client.submit(make_array, 4))
            return count() > 4_000_000

    samples.native(fetched, True)
