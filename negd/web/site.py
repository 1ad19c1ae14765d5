"""One port for everything: the root resource, and the HTTP server it hangs in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from negd.errors import StorageError
from negd.settings import EndpointSettings, RelaySettings
from negd.web import figures, metrics, nip11, status
from negd.web.figures import Figures, Sources

log = Logger()

_REQUEST_TIME = 30.0
"""Seconds in which a client has to bring one whole request."""

_METHODS = b"GET, HEAD, OPTIONS"

# Web clients of any origin read the document (NIP-11).
_CORS = {
    b"access-control-allow-origin": b"*",
    b"access-control-allow-headers": b"*",
    b"access-control-allow-methods": _METHODS,
}
_PLAIN = {b"content-type": b"text/plain; charset=utf-8"}
_DOCUMENT = _CORS | {b"content-type": b"application/nostr+json", b"vary": b"accept"}
_FRESH = {b"cache-control": b"no-store"}
_METRICS = _FRESH | {b"content-type": metrics.CONTENT_TYPE.encode()}
_PAGE = _FRESH | {
    b"content-type": b"text/html; charset=utf-8",
    b"content-security-policy": status.CONTENT_POLICY.encode(),
    b"vary": b"accept",
}


def make_site(
    websocket: IResource,
    sources: Sources,
    relay: RelaySettings,
    endpoint: EndpointSettings,
    reactor: IReactorTime,
) -> Site:
    """The site to serve on each endpoint, plain or TLS.

    :param websocket: what answers requests for a WebSocket.
    """
    return _QuietSite(
        Root(websocket, sources, relay, endpoint),
        requestFactory=_BodilessRequest,
        timeout=_REQUEST_TIME,
        reactor=reactor,
    )


class Root(Resource):
    """``/``: WebSocket, NIP-11 document or status page; ``/metrics``; nothing else."""

    isLeaf = True

    def __init__(
        self,
        websocket: IResource,
        sources: Sources,
        relay: RelaySettings,
        endpoint: EndpointSettings,
    ) -> None:
        super().__init__()
        self._websocket = websocket
        self._sources = sources
        self._relay = relay
        self._document = msgspec.json.encode(nip11.document(relay, endpoint))

    def render(self, request: Request) -> bytes | int:
        """Answer a request, whatever it asks for."""
        request.setHeader(b"server", b"negd")
        if request.path not in (b"/", b"/metrics"):
            return _answer(request, 404, _PLAIN, b"nothing here; the relay is at /\n")
        if request.method == b"OPTIONS":
            return _answer(request, 204, _CORS | {b"allow": _METHODS}, b"")
        if request.method not in (b"GET", b"HEAD"):
            return _answer(request, 405, _PLAIN | {b"allow": _METHODS}, b"method not allowed\n")
        if request.path == b"/metrics":
            return self._with_figures(request, metrics.render, _METRICS)
        return self._root(request)

    def _root(self, request: Request) -> bytes | int:
        if _names(request, b"upgrade", b"websocket"):
            return self._websocket.render(request)  # type: ignore[no-any-return]
        if _names(request, b"accept", b"application/nostr+json"):
            return _answer(request, 200, _DOCUMENT, self._document)
        return self._with_figures(request, lambda found: status.render(found, self._relay), _PAGE)

    def _with_figures(
        self, request: Request, form: Callable[[Figures], bytes], headers: dict[bytes, bytes]
    ) -> int:
        """Answer with the figures in a form, unless the client has gone by then."""
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)

        async def answer() -> None:
            try:
                found = 200, headers, form(await figures.read(self._sources))
            except StorageError as error:
                found = 503, _PLAIN, f"{error.text}\n".encode()
            except Exception:
                log.failure("a page failed")
                found = 500, _PLAIN, b"internal error\n"
            if not gone:
                _answer(request, *found)

        Deferred.fromCoroutine(answer())
        return NOT_DONE_YET


def _answer(request: Request, code: int, headers: dict[bytes, bytes], body: bytes) -> int:
    request.setResponseCode(code)
    for name, value in headers.items():
        request.setHeader(name, value)
    if code != 204:
        request.setHeader(b"content-length", str(len(body)).encode())
    request.write(body)
    request.finish()
    return NOT_DONE_YET


def _names(request: Request, header: bytes, word: bytes) -> bool:
    return word in (request.getHeader(header) or b"").lower()


class _BodilessRequest(Request):
    """A request whose body goes nowhere: nothing here reads one."""

    def handleContentChunk(self, data: bytes) -> None:
        """Twisted would keep it, in memory or in a file."""


class _WholeRequestChannel(HTTPChannel):
    """Allows a time for each whole request: one byte now and then does not hold a connection.

    Twisted starts the clock when the connection is made and when an answer is through, stops it
    while a request is answered, and resets it at every read, which is what is left out here.  A
    WebSocket takes the connection over while the clock is stopped.
    """

    def resetTimeout(self) -> None:
        """Let the clock run."""


class _QuietSite(Site):
    """No access log: what clients do is in the metrics. HTTP/1.1 only, for WebSocket's sake."""

    protocol: Any = _WholeRequestChannel
    noisy = False

    def startFactory(self) -> None:
        """Open no log file."""

    def stopFactory(self) -> None:
        """Close none."""

    def log(self, request: object) -> None:
        """Write nothing."""

    def acceptableProtocols(self) -> list[bytes]:
        """What TLS may agree on."""
        return [b"http/1.1"]
