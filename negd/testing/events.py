"""Sample events, signed: of the kinds, tags and sizes that relays hold, the same for one seed."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from hashlib import sha256
from random import Random

from negd.nostr.event import Event
from negd.nostr.signing import Signer

_PROSE = (
    "the a of to and in is it that for on with relay note key event people today coffee sats "
    "zap bridge winter garden music quiet river code open protocol freedom network morning "
    "thinking about building something small every day never always maybe tomorrow read write"
)
_WORDS = _PROSE.split()
_ODDITIES = (
    "\n\n", "🫂", "⚡️", "こんにちは", "ça", "“quoted”", '"', "\\", "\t", "\u2028", "https://example.com/a?b=c&d=%20",
)  # fmt: skip
_TOPICS = (
    "nostr",
    "bitcoin",
    "art",
    "music",
    "photography",
    "asknostr",
    "coffeechain",
    "grownostr",
)
_FAR_FUTURE = 4_102_444_800
_REMEMBERED = 1000

_Draft = tuple[list[list[str]], str]


class _Samples:
    """Draws events one after another; replies, reactions and deletions name earlier ones."""

    def __init__(self, random: Random, authors: list[Signer]) -> None:
        self._random = random
        self._authors = authors
        self._earlier: deque[tuple[Event, Signer]] = deque(maxlen=_REMEMBERED)
        self._drafts: dict[int, Callable[[], _Draft]] = {
            0: self._profile, 1: self._note, 3: self._contacts, 6: self._repost,
            7: self._reaction, 1059: self._wrap, 1111: self._comment, 9735: self._receipt,
            10002: self._relay_list, 20001: self._note, 30023: self._article,
            30078: self._settings,
        }  # fmt: skip
        self._kinds = list(self._drafts)
        self._weights = (20, 600, 15, 50, 180, 40, 20, 40, 10, 2, 10, 5)

    def draw(self, created_at: int) -> Event:
        """One more event."""
        random = self._random
        if self._earlier and random.random() < 0.008:
            return self._deletion(created_at)
        kind = random.choices(self._kinds, self._weights)[0]
        author = self._somebody()
        tags, content = self._drafts[kind]()
        if kind == 1 and random.random() < 0.01:
            tags.append(["expiration", str(_FAR_FUTURE)])
        event = author.sign(created_at=created_at, kind=kind, tags=tags, content=content)
        if kind in (1, 1111):
            self._earlier.append((event, author))
        return event

    def _deletion(self, created_at: int) -> Event:
        event, author = self._random.choice(self._earlier)
        tags = [["e", event.id], ["k", str(event.kind)]]
        return author.sign(created_at=created_at, kind=5, tags=tags, content="")

    def _somebody(self) -> Signer:
        """Few authors write most."""
        return self._authors[int(len(self._authors) * self._random.random() ** 3)]

    def _pubkeys(self, most: int) -> list[list[str]]:
        return [["p", self._somebody().pubkey] for _ in range(self._random.randint(1, most))]

    def _text(self, typical: int) -> str:
        """Words and now and then something that needs escaping or more than one byte."""
        size = max(1, int(typical * self._random.lognormvariate(0, 0.8)))
        words = self._random.choices(_WORDS, k=size)
        for _ in range(size // 12):
            words[self._random.randrange(size)] = self._random.choice(_ODDITIES)
        return " ".join(words)

    def _reference(self, marker: str = "") -> list[list[str]]:
        if not self._earlier:
            return []
        event, _ = self._random.choice(self._earlier)
        tag = ["e", event.id, "wss://relay.example.com", marker] if marker else ["e", event.id]
        return [tag, ["p", event.pubkey]]

    def _profile(self) -> _Draft:
        name = self._random.choice(_WORDS)
        about = {"name": name, "about": self._text(12), "nip05": f"{name}@example.com"}
        return [], json.dumps(about, ensure_ascii=False)

    def _note(self) -> _Draft:
        tags: list[list[str]] = []
        if self._random.random() < 0.5:
            tags += self._reference("root") + self._reference("reply")
        if self._random.random() < 0.3:
            topics = self._random.choices(_TOPICS, (80, 20, 9, 7, 5, 4, 3, 2), k=2)
            tags += [["t", topic] for topic in dict.fromkeys(topics)]
        return tags, self._text(16)

    def _contacts(self) -> _Draft:
        return self._pubkeys(300), ""

    def _repost(self) -> _Draft:
        return self._reference(), ""

    def _reaction(self) -> _Draft:
        return [*self._reference(), ["k", "1"]], self._random.choice(("+", "🤙", "❤️", "-"))

    def _wrap(self) -> _Draft:
        return self._pubkeys(1), self._random.randbytes(self._random.randint(300, 900)).hex()

    def _comment(self) -> _Draft:
        event_tags = self._reference()
        return [*event_tags, *([name.upper(), value] for name, value in event_tags)], self._text(20)

    def _receipt(self) -> _Draft:
        invoice = "lnbc" + self._random.randbytes(130).hex()
        request = json.dumps({"kind": 9734, "content": "", "sig": self._random.randbytes(64).hex()})
        tags = [["bolt11", invoice], ["description", request], ["P", self._somebody().pubkey]]
        return [*self._reference(), *tags], ""

    def _relay_list(self) -> _Draft:
        count = self._random.randint(2, 8)
        return [
            ["r", f"wss://relay{self._random.randrange(99)}.example.com"] for _ in range(count)
        ], ""

    def _article(self) -> _Draft:
        slug = "-".join(self._random.choices(_WORDS, k=4))
        topics = [["t", topic] for topic in self._random.sample(_TOPICS, 2)]
        return [["d", slug], ["title", self._text(5)], *topics], self._text(500)

    def _settings(self) -> _Draft:
        return [["d", self._random.choice(_WORDS)]], self._text(30)


def sample_events(
    count: int, seed: int = 1, *, authors: int | None = None, until: int = 1_700_000_000
) -> Iterator[Event]:
    """``count`` signed events, oldest first, some seconds apart, the last one near ``until``.

    Some are ephemeral, some replace or delete earlier ones: a store keeps a little less. Which
    it keeps does not hang on the order in which it gets them.

    :param authors: how many people write; a fiftieth of ``count`` unless given.
    """
    random = Random(seed)
    people = max(5, count // 50) if authors is None else authors
    signers = [Signer(sha256(f"{seed} {number}".encode()).digest()) for number in range(people)]
    samples = _Samples(random, signers)
    for number in range(count):
        yield samples.draw(until - 3 * (count - number) + random.randint(-30, 0))
