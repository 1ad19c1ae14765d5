"""The figures in Prometheus' text form: ``/metrics``."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from negd import __version__
from negd.interfaces import PeerStatus
from negd.web.figures import Figures

CONTENT_TYPE = CONTENT_TYPE_LATEST


def render(figures: Figures) -> bytes:
    """All metrics of one scrape, and those of the process (CPU, memory, files)."""
    registry = CollectorRegistry()
    registry.register(_Scrape(figures))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Scrape(Collector):
    """The figures of one scrape; nothing is kept between scrapes but what the figures count."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """What the library asks for."""
        figures = self._figures
        build = GaugeMetricFamily("negd_build", "Always 1; the version.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        yield GaugeMetricFamily("negd_events", "Events stored.", figures.stored.events)
        yield GaugeMetricFamily(
            "negd_store_bytes", "Size of the storage on disk.", figures.stored.bytes
        )
        yield GaugeMetricFamily(
            "negd_connections", "WebSocket clients connected.", figures.connections
        )
        yield GaugeMetricFamily(
            "negd_sessions", "Reconciliations that clients have open.", figures.sessions
        )
        yield GaugeMetricFamily(
            "negd_intake_backlog", "Events on their way into the store.", figures.backlog
        )
        yield GaugeMetricFamily(
            "negd_snapshot_bytes",
            "Memory of the snapshots that clients reconcile with.",
            figures.snapshot_bytes,
        )
        yield GaugeMetricFamily(
            "negd_reactor_late_seconds",
            "By how much the daemon was late for what was due, at most, in the last minute.",
            figures.late,
        )
        yield self._outcomes()
        yield from self._peers()

    def _outcomes(self) -> Metric:
        taken = CounterMetricFamily(
            "negd_events_taken",
            "Events handed in since the start, by what became of them.",
            labels=["outcome"],
        )
        for outcome, count in self._figures.outcomes.items():
            taken.add_metric([outcome.value], count)
        return taken

    def _peers(self) -> Iterator[Metric]:
        label = ["peer"]
        synced = CounterMetricFamily(
            "negd_peer_events", "Events fetched from and sent to a peer.", labels=label
        )
        last = GaugeMetricFamily(
            "negd_peer_last_sync_timestamp_seconds",
            "When a sync with a peer last succeeded; 0 for never.",
            labels=label,
        )
        failures = GaugeMetricFamily(
            "negd_peer_failures", "Failed syncs since the last success.", labels=label
        )
        syncing = GaugeMetricFamily(
            "negd_peer_syncing", "1 while a sync with a peer runs.", labels=label
        )
        for url, state in self._figures.peers.items():
            synced.add_metric([url], state.events_synced)
            last.add_metric([url], state.last_sync)
            failures.add_metric([url], state.consecutive_failures)
            syncing.add_metric([url], state.status is PeerStatus.SYNCING)
        yield from (synced, last, failures, syncing)
