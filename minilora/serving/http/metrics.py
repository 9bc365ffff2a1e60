"""What a server counts, in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from minilora.serving.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """Counters and histograms of one service; `text` has the engine's own figures as well.

    Models are told apart by name, and only those that are served have one: a client can't make new
    lines.
    """

    def __init__(self, service: Service) -> None:
        self._registry = own = CollectorRegistry()
        self.ended = Counter(
            "minilora_answers", "Answers by model and why they ended.", ("model", "ended"),
            registry=own,
        )  # fmt: skip
        self.refused = Counter(
            "minilora_refused_requests", "Requests refused, by HTTP status.", ("status",),
            registry=own,
        )  # fmt: skip
        self.prompt_tokens = Counter(
            "minilora_prompt_tokens", "Tokens of prompts.", ("model",), registry=own
        )
        self.new_tokens = Counter(
            "minilora_new_tokens", "Tokens of answers.", ("model",), registry=own
        )
        self.first = Histogram(
            "minilora_first_token_seconds", "From a request to its first token.", buckets=SECONDS,
            registry=own,
        )  # fmt: skip
        self.whole = Histogram(
            "minilora_answer_seconds", "From a request to the end of an answer.", buckets=SECONDS,
            registry=own,
        )  # fmt: skip
        own.register(_Now(service))

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Now:
    """Figures that are read when they are asked for."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def collect(self) -> Iterator[Metric]:
        """As Prometheus' registry asks."""
        service, engine = self.service, self.service.engine
        gauges = {
            "minilora_open_requests": ("Requests that have not ended.", service.open),
            "minilora_rows": ("Requests that are being answered.", engine.active),
            "minilora_most_rows": ("Requests that can be answered at a time.", engine.most_rows),
            "minilora_waiting": ("Requests that wait for a row.", engine.waiting),
            "minilora_adapters": ("Adapters that are served.", len(service.names)),
            "minilora_kept_positions": ("Positions of prompts kept.", engine.kept.positions),
        }
        for name, (what, value) in gauges.items():
            yield GaugeMetricFamily(name, what, value=value)
        positions = CounterMetricFamily(
            "minilora_prompt_positions", "Positions of prompts, read or known.", labels=("how",)
        )
        positions.add_metric(("read",), engine.read_positions)
        positions.add_metric(("known",), engine.known_positions)
        yield positions
