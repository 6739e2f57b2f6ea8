"""Every metric of the product, listed once: name, kind, unit and meaning.

``METRICS`` is the list; ``Metrics`` holds the live numbers of one process on a registry of its
own, as typed attributes, so that a typo does not type-check.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

# Otherwise every counter comes with a gauge of its own for the moment it was first counted.
disable_created_metrics()  # type: ignore[no-untyped-call]

EXPOSITION_MEDIA_TYPE = CONTENT_TYPE_LATEST

_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_FLUSH_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metric(Struct, frozen=True, kw_only=True):
    """One row of the list; ``name`` is as it is scraped."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...]


class Metrics:
    """The numbers of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.listing: list[Metric] = []
        self._add_events()
        self._add_pipeline()
        self._add_queries()

    def exposition(self) -> bytes:
        """All numbers in the text format that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _add_events(self) -> None:
        by_source = ("datasource",)
        self.events_requests = self._counter(
            "events_requests_total",
            "requests",
            "Requests to the Events API by HTTP status; datasource is empty where it is unknown.",
            ("datasource", "status"),
        )
        self.events_rows = self._counter(
            "events_rows_total", "rows", "Events accepted into the log as good rows.", by_source
        )
        self.events_quarantined = self._counter(
            "events_quarantined_total",
            "rows",
            "Events accepted into the log that will go to quarantine.",
            by_source,
        )
        self.events_bytes = self._counter(
            "events_bytes_total", "bytes", "Bytes of events after decompression.", by_source
        )
        self.events_seconds = self._histogram(
            "events_request_seconds",
            "Time from the first byte of an accepted request until its events are in the log.",
            by_source,
            _REQUEST_SECONDS,
        )
        self.log_appended = self._counter(
            "log_appended_total", "records", "Records appended to the log.", ("topic",)
        )

    def _add_pipeline(self) -> None:
        by_source, by_partition = ("datasource",), ("datasource", "partition")
        self.rows_stored = self._counter(
            "rows_stored_total", "rows", "Rows inserted into the data source's table.", by_source
        )
        self.bytes_stored = self._counter(
            "bytes_stored_total", "bytes", "Bytes of the events that were inserted.", by_source
        )
        self.rows_lost = self._counter(
            "rows_lost_total",
            "rows",
            "Records that the log removed before they were stored; a gap in the ledger.",
            by_source,
        )
        self.rows_quarantined = self._counter(
            "rows_quarantined_total", "rows", "Rows written to quarantine.", by_source
        )
        self.batches = self._counter(
            "batches_total", "batches", "Batches inserted and committed.", by_source
        )
        self.flush_seconds = self._histogram(
            "flush_seconds",
            "Time from the first insert attempt of a batch until it is stored.",
            by_source,
            _FLUSH_SECONDS,
        )
        self.insert_retries = self._counter(
            "insert_retries_total", "attempts", "Insert attempts that were repeated.", by_source
        )
        self.held_partitions = self._gauge(
            "held_partitions",
            "partitions",
            "Partitions that wait for an operator or for a broken view.",
            by_source,
        )
        self.open_batch_age = self._gauge(
            "open_batch_age_seconds", "seconds", "Age of the oldest row not yet stored.", by_source
        )
        self.behind_seconds = self._gauge(
            "behind_seconds",
            "seconds",
            "At least how old what can be queried is while records wait, in the log or in memory.",
            by_partition,
        )
        self.paused_partitions = self._gauge(
            "paused_partitions",
            "partitions",
            "Partitions that are not read because enough of them is in memory.",
            by_source,
        )
        self.pipeline_stopped = self._gauge(
            "pipeline_stopped",
            "pipelines",
            "1 where a pipeline stopped because too many rows go to quarantine.",
            by_source,
        )
        self.lag = self._gauge(
            "lag_rows", "rows", "Records in the log that are not yet stored.", by_partition
        )

    def _add_queries(self) -> None:
        self.endpoint_requests = self._counter(
            "endpoint_requests_total",
            "requests",
            "Endpoint requests by HTTP status.",
            ("pipe", "status"),
        )
        self.endpoint_seconds = self._histogram(
            "endpoint_request_seconds",
            "Time from a request until the last byte of its answer.",
            ("pipe",),
            _REQUEST_SECONDS,
        )
        self.cache_hits = self._counter(
            "cache_hits_total", "answers", "Endpoint answers taken from the cache.", ()
        )
        self.cache_misses = self._counter(
            "cache_misses_total",
            "answers",
            "Endpoint answers that the cache was asked for and did not have.",
            (),
        )
        self.cache_bytes = self._gauge(
            "cache_bytes", "bytes", "Memory that cached endpoint answers take.", ()
        )
        self.dropped = self._counter(
            "dropped_total",
            "records",
            "Observability records dropped because their queue was full.",
            ("queue",),
        )

    def _counter(self, name: str, unit: str, help_: str, labels: Sequence[str]) -> Counter:
        self._list("counter", name, unit, help_, labels)
        return Counter(_full(name), help_, labels, registry=self.registry)

    def _gauge(self, name: str, unit: str, help_: str, labels: Sequence[str]) -> Gauge:
        self._list("gauge", name, unit, help_, labels)
        return Gauge(_full(name), help_, labels, registry=self.registry)

    def _histogram(
        self, name: str, help_: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> Histogram:
        self._list("histogram", name, "seconds", help_, labels)
        return Histogram(_full(name), help_, labels, registry=self.registry, buckets=buckets)

    def _list(
        self,
        kind: Literal["counter", "gauge", "histogram"],
        name: str,
        unit: str,
        help_: str,
        labels: Sequence[str],
    ) -> None:
        self.listing.append(
            Metric(name=_full(name), kind=kind, unit=unit, help=help_, labels=tuple(labels))
        )


def _full(name: str) -> str:
    return f"pipehouse_{name}"


METRICS: tuple[Metric, ...] = tuple(Metrics().listing)
