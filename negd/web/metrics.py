"""The figures in Prometheus' text form: ``/metrics``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from negd import __version__
from negd.interfaces import PeerStatus, PerClient, Use
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
        for name, meaning, use in (
            ("connections", "WebSocket clients connected", figures.endpoint.connections),
            ("sessions", "Reconciliations that clients have open", figures.sessions),
            (
                "snapshot_bytes",
                "Memory of the snapshots that clients reconcile with",
                figures.snapshot_bytes,
            ),
            ("intake_backlog", "Events on their way into the store", figures.backlog),
            ("checkers", "Processes alive that check events", figures.checkers),
            ("control_calls", "Control calls that wait or run", figures.control_calls),
            ("control_streams", "Syncs with progress by control calls", figures.control_streams),
            ("peers", "Peers listed", figures.listed),
            ("syncs", "Syncs begun; beyond the limit they wait for a turn", figures.syncs),
        ):
            yield from _bounded(name, meaning, use)
        load = figures.endpoint
        for name, meaning, shared in (
            ("subscriptions", "Subscriptions open", load.subscriptions),
            ("unanswered", "Commands not answered yet", load.unanswered),
            ("unanswered_bytes", "Bytes of commands not answered yet", load.unanswered_bytes),
            ("outgoing_bytes", "Bytes in line for clients to read", load.outgoing_bytes),
        ):
            yield from _per_client(name, meaning, shared)
        yield _counted(
            "negd_refusals",
            "What was refused, ended or dropped since the start, by the bound that was reached.",
            "bound",
            figures.refusals,
        )
        yield GaugeMetricFamily(
            "negd_reactor_late_seconds",
            "By how much the daemon was late for what was due, at most, in the last minute.",
            figures.late,
        )
        yield _counted(
            "negd_events_taken",
            "Events handed in since the start, by what became of them.",
            "outcome",
            {outcome.value: count for outcome, count in figures.outcomes.items()},
        )
        yield from self._peers()

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


def _counted(name: str, meaning: str, label: str, counts: Mapping[str, int]) -> Metric:
    counted = CounterMetricFamily(name, meaning, labels=[label])
    for word, count in counts.items():
        counted.add_metric([word], count)
    return counted


def _bounded(name: str, meaning: str, use: Use) -> Iterator[Metric]:
    yield GaugeMetricFamily(f"negd_{name}", f"{meaning}.", use.now)
    yield GaugeMetricFamily(f"negd_{name}_limit", f"The limit of negd_{name}.", use.most)


def _per_client(name: str, meaning: str, shared: PerClient) -> Iterator[Metric]:
    yield GaugeMetricFamily(f"negd_{name}", f"{meaning}, all clients'.", shared.total)
    largest = Use(shared.largest, shared.most)
    yield from _bounded(f"client_{name}", f"{meaning}, of the client with most", largest)
