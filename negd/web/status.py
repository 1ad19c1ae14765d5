"""The status page: one HTML document that needs nothing else."""

from __future__ import annotations

from html import escape

from negd import __version__
from negd.interfaces import Outcome, PeerState, PeerStatus
from negd.settings import RelaySettings
from negd.web.figures import Figures

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"
"""Nothing is loaded and no script runs, whatever text gets into the page."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #667085; --line: #d9dee7;
  --paper: #f6f7f9; --card: #fff; --good: #18794e; --busy: #0b68cb; --bad: #c62a2f }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #313a4b;
  --paper: #12161f; --card: #1a202c; --good: #4cc38a; --busy: #70b8ff; --bad: #ff9592 } }
* { box-sizing: border-box }
body { margin: 0; padding: 3rem 1.25rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
main { max-width: 56rem; margin: 0 auto }
h1 { margin: 0; font-size: 1.75rem; letter-spacing: -.01em; overflow-wrap: anywhere }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.1rem }
p { margin: .25rem 0 0; color: var(--soft) }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem;
  margin: 2rem 0 0 }
dl div { padding: .9rem 1.1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem }
dt { color: var(--soft); font-size: .85rem }
dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums }
.table { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .6rem .9rem; text-align: left; border-top: 1px solid var(--line);
  vertical-align: top }
thead th { border-top: 0; color: var(--soft); font-size: .85rem; font-weight: 500 }
td:first-child { overflow-wrap: anywhere; min-width: 9rem }
td + td { white-space: nowrap }
td.number, th.number { text-align: right }
td.why { padding-top: 0; border-top: 0; color: var(--bad); font-size: .9rem;
  overflow-wrap: anywhere }
.idle { color: var(--good) } .syncing { color: var(--busy) } .error { color: var(--bad) }
footer { margin-top: 2.5rem; color: var(--soft); font-size: .85rem }
a { color: inherit }
"""

_MOST_PEERS = 100


def render(figures: Figures, relay: RelaySettings) -> bytes:
    """The page, UTF-8. Everything that comes from elsewhere is escaped."""
    name = escape(relay.name)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{name}</h1>
<p>{escape(relay.description)}</p>
<dl>{_tiles(figures)}</dl>
<h2>Peers</h2>
{_peers(figures)}
<footer>negd {escape(__version__)}: a Nostr relay that keeps itself equal with its peers
(NIP-77). Point a Nostr client at this address, or see <a href="/metrics">metrics</a>.</footer>
</main>
</body>
</html>
""".encode()


def _tiles(figures: Figures) -> str:
    tiles = [
        ("events", f"{figures.stored.events:,}"),
        ("stored since start", f"{figures.outcomes.get(Outcome.STORED, 0):,}"),
        ("clients", f"{figures.endpoint.connections.now:,}"),
        ("sessions", f"{figures.sessions.now:,}"),
    ]
    if figures.stored.bytes:
        tiles.insert(1, ("on disk", _bytes(figures.stored.bytes)))
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)


def _peers(figures: Figures) -> str:
    if not figures.peers:
        return "<p>None listed.</p>"
    shown = sorted(figures.peers.items())[:_MOST_PEERS]
    rows = "".join(_peer(url, state, figures.now) for url, state in shown)
    left_out = len(figures.peers) - len(shown)
    more = f"<p>and {left_out} more</p>" if left_out else ""
    return f"""<div class="table"><table>
<thead><tr><th>relay</th><th>state</th><th>last sync</th><th class="number">events</th></tr></thead>
<tbody>{rows}</tbody></table></div>{more}"""


def _peer(url: str, state: PeerState, now: float) -> str:
    row = (
        f"<tr><td>{escape(url)}</td>"
        f'<td class="{state.status.value}">{state.status.value}</td>'
        f"<td>{_ago(state.last_sync, now)}</td>"
        f'<td class="number">{state.events_synced:,}</td></tr>'
    )
    if state.status is PeerStatus.ERROR and state.last_error:
        times = state.consecutive_failures
        failed = f"failed {times} times: " if times > 1 else ""
        row += f'<tr><td class="why" colspan="4">{failed}{escape(state.last_error)}</td></tr>'
    return row


def _ago(then: int, now: float) -> str:
    if not then:
        return "never"
    seconds = max(0, int(now - then))
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
