"""One client's conversation with the relay: commands in, answers out (NIP-01, NIP-77).

Knows no WebSocket: the server gives it texts and an :class:`IChannel`.  It decides nothing about
events or sessions either; those who do are behind :class:`Backend`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from negd.errors import NegdError, Unknown
from negd.interfaces import IEventStore, IIntake, ISessions
from negd.nostr.event import Event
from negd.nostr.messages import (
    Auth,
    Close,
    InvalidMessage,
    NegClose,
    NegMsg,
    NegOpen,
    Publish,
    Request,
    decode_client,
    encode_closed,
    encode_neg_err,
    encode_neg_msg,
    encode_notice,
    encode_ok,
    encode_refusal,
)
from negd.reconcile import Step
from negd.settings import EndpointSettings
from negd.websocket.outgoing import IChannel, Outgoing
from negd.websocket.subscription import Subscription, Surroundings, weight_of

log = Logger()

_INTERNAL = "error: internal error"
_READERS = 4
"""Subscriptions of one connection that read the store at a time."""

LARGEST = 4
"""Messages of the largest size that one client's unanswered commands may take together."""

_MOST_VALUES = 20_000
"""Values in the filters of one connection's subscriptions: each is a key in the store's watches.

The ids of the largest message there may be are fewer.
"""

_REFUSALS = ("connections", "subscriptions", "filters", "filter_values", "outgoing", "stall")
"""What clients are refused for, or dropped."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What stands behind every conversation.

    :ivar refusals: how often clients came up against each bound, since the start.
    """

    intake: IIntake
    store: IEventStore
    sessions: ISessions
    settings: EndpointSettings
    clock: IReactorTime
    refusals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_REFUSALS, 0))


class Conversation:
    """What one client asked for and is still owed.

    :param name: the connection's id, as sessions know it: ``ws:127.0.0.1:56264:17``.
    :ivar outgoing: to be told when the transport has room and when it has not.
    """

    def __init__(self, name: str, channel: IChannel, backend: Backend) -> None:
        settings = backend.settings
        self.name = name
        self.outgoing = Outgoing(
            channel,
            backend.clock,
            settings.max_outgoing,
            settings.stall,
            self._regulate,
            backend.refusals,
        )
        self._channel = channel
        self._backend = backend
        self._around = Surroundings(
            backend.store,
            self.outgoing,
            backend.clock,
            DeferredSemaphore(_READERS),
            backend.refusals,
        )
        self._subscriptions: dict[str, Subscription] = {}
        self._opening: dict[str, NegOpen] = {}
        self._events: list[Event] = []
        self._events_size = self._size = 0
        self._unanswered = self._unanswered_size = 0
        self._reading = True

    @property
    def subscriptions(self) -> int:
        """How many are open."""
        return len(self._subscriptions)

    @property
    def unanswered(self) -> int:
        """Commands that are not answered."""
        return self._unanswered + len(self._events)

    @property
    def unanswered_bytes(self) -> int:
        """Bytes of those commands."""
        return self._unanswered_size + self._events_size

    # --- what the transport tells ---------------------------------------------------------------

    def received(self, text: bytes) -> None:
        """Handle one text message. Raises nothing."""
        self._size = len(text)
        try:
            message = decode_client(text)
            _COMMANDS[type(message)](self, message)
        except InvalidMessage as error:
            self.outgoing.send(encode_refusal(error))
        except Exception:
            log.failure("a message on {name} failed", name=self.name)
            self.outgoing.send(encode_notice(_INTERNAL))
        self._regulate()

    def received_binary(self) -> None:
        """Answer a binary message."""
        self.outgoing.send(encode_notice("invalid: binary message; send text"))
        self._regulate()

    def end_of_read(self) -> None:
        """Hand on the events that came with one read from the network, together."""
        if self._events:
            events, self._events = self._events, []
            self._size, self._events_size = self._events_size, 0
            self._start(self._publish(events), len(events))

    def lost(self) -> None:
        """The connection is gone; so is what belonged to it."""
        self.outgoing.close()
        self._backend.sessions.close_connection(self.name)
        subscriptions, self._subscriptions = self._subscriptions, {}
        for subscription in subscriptions.values():
            subscription.end()

    # --- commands -------------------------------------------------------------------------------

    def _on_event(self, message: Publish) -> None:
        self._events.append(message.event)
        self._events_size += self._size

    def _on_auth(self, message: Auth) -> None:
        """No challenge was sent, so no answer to one can be right (NIP-42)."""
        reason = "invalid: no challenge was sent; this relay needs no authentication"
        self.outgoing.send(encode_ok(message.event.id, False, reason))

    def _on_request(self, message: Request) -> None:
        self._end_subscription(message.subscription)
        refusal = self._too_much(message)
        if refusal is not None:
            bound, text = refusal
            self._backend.refusals[bound] += 1
            self.outgoing.send(encode_closed(message.subscription, f"blocked: {text}"))
            return
        subscription = Subscription(message, self._around, self._forget)
        self._subscriptions[message.subscription] = subscription
        self._start(subscription.run())

    def _too_much(self, message: Request) -> tuple[str, str] | None:
        """Which bound a REQ is beyond, and how to say it; None where it is within all."""
        settings, live = self._backend.settings, self._subscriptions
        if len(live) >= settings.max_subscriptions:
            return "subscriptions", f"at most {settings.max_subscriptions} subscriptions"
        if len(message.filters) > settings.max_filters:
            return "filters", f"at most {settings.max_filters} filters"
        if sum(held.weight for held in live.values()) + weight_of(message) > _MOST_VALUES:
            text = f"at most {_MOST_VALUES} values in the filters of all subscriptions"
            return "filter_values", text
        return None

    def _on_close(self, message: Close) -> None:
        self._end_subscription(message.subscription)

    def _on_neg_open(self, message: NegOpen) -> None:
        self._opening[message.subscription] = message
        self._start(self._neg_open(message))

    def _on_neg_msg(self, message: NegMsg) -> None:
        step = self._backend.sessions.message(self.name, message.subscription, message.message)
        self._start(self._negotiate(message.subscription, step))

    def _on_neg_close(self, message: NegClose) -> None:
        self._opening.pop(message.subscription, None)
        self._backend.sessions.close(self.name, message.subscription)

    # --- answers --------------------------------------------------------------------------------

    async def _publish(self, events: list[Event]) -> None:
        try:
            verdicts = await self._backend.intake.submit(events)
        except Exception as error:
            text = self._explain(error)
            answers = [(event, False, text) for event in events]
        else:
            answers = [
                (event, verdict.accepted, verdict.text)
                for event, verdict in zip(events, verdicts, strict=True)
            ]
        for event, accepted, text in answers:
            self.outgoing.send(encode_ok(event.id, accepted, text))

    async def _neg_open(self, message: NegOpen) -> None:
        """Open a session; one that was replaced or closed meanwhile needs no answer."""
        name = message.subscription
        step = self._backend.sessions.open(self.name, name, message.filter, message.message)
        await self._negotiate(name, step, lambda: self._opening.get(name) is message)
        if self._opening.get(name) is message:
            del self._opening[name]

    async def _negotiate(
        self, subscription: str, step: Awaitable[Step], wanted: Callable[[], bool] = lambda: True
    ) -> None:
        try:
            reply = (await step).reply
        except Exception as error:
            if isinstance(error, Unknown) and not wanted():
                return
            self.outgoing.send(encode_neg_err(subscription, self._explain(error)))
        else:
            if reply is not None:
                self.outgoing.send(encode_neg_msg(subscription, reply))

    def _explain(self, error: Exception) -> str:
        """What the client is told of an error; one that nobody foresaw is logged here."""
        if isinstance(error, NegdError):
            return error.answer
        log.failure("a command on {name} failed", name=self.name)
        return _INTERNAL

    # --- what is owed ---------------------------------------------------------------------------

    def _start(self, work: Any, weight: int = 1) -> None:
        """Run a coroutine that raises nothing; until it ends its answers count as owed."""
        size = self._size
        self._unanswered += weight
        self._unanswered_size += size

        def finish(_: object) -> None:
            self._unanswered -= weight
            self._unanswered_size -= size
            self._regulate()

        Deferred.fromCoroutine(work).addBoth(finish)

    def _regulate(self) -> None:
        """Stop reading while too much is owed to the client, or waits for it to read."""
        settings = self._backend.settings
        full = max(
            self.unanswered / settings.max_unanswered,
            self.unanswered_bytes / (LARGEST * settings.max_message),
            self.outgoing.queued / (settings.max_outgoing + 1),
        )
        if self._reading and full >= 1:
            self._reading = False
            self._channel.pause()
        elif not self._reading and full < 1 / 2:
            self._reading = True
            self._channel.resume()

    def _end_subscription(self, name: str) -> None:
        subscription = self._subscriptions.pop(name, None)
        if subscription is not None:
            subscription.end()

    def _forget(self, subscription: Subscription) -> None:
        del self._subscriptions[subscription.name]


_COMMANDS: dict[type, Callable[[Conversation, Any], None]] = {
    Publish: Conversation._on_event,
    Auth: Conversation._on_auth,
    Request: Conversation._on_request,
    Close: Conversation._on_close,
    NegOpen: Conversation._on_neg_open,
    NegMsg: Conversation._on_neg_msg,
    NegClose: Conversation._on_neg_close,
}
