"""Prometheus instruments with vLLM's names, labels and bounds, behind a prefix of the daemon's own.

Two prefixes, as a Prometheus that scrapes devices and workers would count their tokens twice under one. A dashboard
made for vLLM reads either with ``vllm:`` replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar, cast

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from flexspec_mq.daemon.probes import Page, Pages
from flexspec_mq.daemon.tally import DraftTally

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""Media type of `Instruments.page`."""
MODEL = "model_name"
"""Label of the target version."""
LATENCY = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
BETWEEN_TOKENS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
ITERATION = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)

M = TypeVar("M", Counter, Histogram)
Values = float | Mapping[Any, float]
"""A value, or values by that of a label, or by those of several."""


class Instruments:
    """Figures of one daemon.

    Args:
        prefix: beginning of every name, ``flexspec_edge:`` or ``flexspec_worker:``.
    """

    def __init__(self, prefix: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._prefix = prefix
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._by_model: list[Counter | Histogram] = []

    def register(self, collector: Collector) -> None:
        """Have a collector's figures on the page too."""
        self._registry.register(collector)

    def counter(self, name: str, about: str, *labels: str) -> Counter:
        """A counter; its sample ends in ``_total``."""
        return self._noted(Counter(self._prefix + name, about, labels, registry=self._registry), labels)

    def gauge(self, name: str, about: str) -> Gauge:
        """A gauge without labels."""
        return Gauge(self._prefix + name, about, registry=self._registry)

    def histogram(self, name: str, about: str, bounds: Sequence[float], *labels: str) -> Histogram:
        """A histogram with these upper bounds."""
        made = Histogram(self._prefix + name, about, labels, buckets=bounds, registry=self._registry)
        return self._noted(made, labels)

    def forget(self, model: str) -> None:
        """Drop what these counters and histograms hold of a target version, which is gone."""
        for instrument in self._by_model:
            instrument.remove_by_labels({MODEL: model})

    def total(self, name: str, about: str, values: Values, *labels: str) -> Metric:
        """A counter that is kept elsewhere: one value, or one for each value of its labels, here the version's."""
        return self._family(CounterMetricFamily, name, about, values, labels)

    def now(self, name: str, about: str, values: Values, *labels: str) -> Metric:
        """A gauge that is kept elsewhere, as `total`."""
        return self._family(GaugeMetricFamily, name, about, values, labels)

    def _family(
        self, kind: type[Metric], name: str, about: str, values: Values, labels: Sequence[str]
    ) -> Metric:
        if not isinstance(values, Mapping):
            return kind(self._prefix + name, about, value=values)  # type: ignore[call-arg]
        family: Any = kind(self._prefix + name, about, labels=labels or (MODEL,))  # type: ignore[call-arg]
        for key, value in values.items():
            family.add_metric((key,) if isinstance(key, str) else key, value)
        return cast("Metric", family)

    def drafts(self, tallies: Mapping[str, DraftTally]) -> Iterator[Metric]:
        """Speculative decoding by target version."""
        for name, about, field in (
            ("drafts", "Drafts that the target judged", "drafts"),
            ("draft_tokens", "Tokens of these", "drafted"),
            ("accepted_tokens", "Right ones among them", "accepted"),
        ):
            values = {model: getattr(tally, field) for model, tally in tallies.items()}
            yield self.total(f"spec_decode_num_{name}", about, values)
        yield self.total(
            "spec_decode_num_accepted_tokens_per_pos",
            "Accepted tokens at each position of a draft",
            {
                (model, str(position)): accepted
                for model, tally in tallies.items()
                for position, accepted in enumerate(tally.by_position)
            },
            MODEL,
            "position",
        )

    def pages(self, not_ready: Callable[[], str] = str) -> Pages:
        """Pages of a daemon: its figures, that it runs, and why it is not ready, empty if it is."""

        def ready() -> Page:
            why = not_ready()
            status = HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK
            return Page(f"{why or 'ready'}\n".encode(), status)

        return {
            "/metrics": lambda: Page(self.page(), kind=CONTENT_TYPE),
            "/healthz": lambda: Page(b"ok\n"),
            "/readyz": ready,
        }

    def page(self) -> bytes:
        """The page that Prometheus reads, in its text format; made on the event loop."""
        return generate_latest(self._registry)

    def _noted(self, made: M, labels: Sequence[str]) -> M:
        if MODEL in labels:
            self._by_model.append(made)
        return made
