"""Replicas are computed as the autoscaler of Kubernetes does."""

import pytest

from lab.benchmarks.fleet import wanted


@pytest.mark.parametrize(
    ("kind", "value", "threshold", "replicas", "result"),
    [
        ("AverageValue", 0.0, 4.0, 1, 0),
        ("AverageValue", 4.3, 4.0, 1, 1),  # within the tolerance
        ("AverageValue", 4.5, 4.0, 1, 2),
        ("AverageValue", 9.0, 4.0, 2, 3),
        ("AverageValue", 8.1, 4.0, 2, 2),
        ("AverageValue", 4.0, 4.0, 3, 1),
        ("Value", 2.5, 1.0, 1, 3),
        ("Value", 2.5, 1.0, 2, 5),
        ("Value", 0.95, 1.0, 3, 3),
        ("Value", 0.3, 1.0, 3, 1),
    ],
)
def test_replicas_that_a_metric_wants(
    kind: str, value: float, threshold: float, replicas: int, result: int
) -> None:
    assert wanted(kind, value, threshold, replicas) == result
