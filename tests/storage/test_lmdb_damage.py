"""A damaged store in LMDB: whatever is lost or added in its indexes, a repair mends it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import lmdb
import pytest

from negd.nostr.filter import Filter
from negd.testing.events import sample_events
from negd.testing.model import NaiveRelay
from tests.storage.contract import NOW, assert_answers, note
from tests.storage.test_lmdb import opened

INDEXES = ("ids", "kinds", "authors", "tags", "expiry", "addresses")


def damage(folder: Path, random: Random, index: str, lost: int, added: int) -> None:
    """Take entries out of an index and put others in, with an LMDB that knows nothing of negd."""
    with lmdb.open(str(folder), max_dbs=30, map_size=1 << 30) as environment:
        database = environment.open_db(index.encode(), create=False)
        with environment.begin(write=True) as txn:
            entries = list(txn.cursor(database))
            for key, value in random.sample(entries, min(lost, len(entries))):
                txn.delete(key, value, db=database)
            for key, value in random.choices(entries, k=added):
                stray = random.choice([random.choice(entries)[1], random.randbytes(len(value))])
                txn.put(random.choice([key, random.randbytes(len(key))]), stray, db=database)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_lost_or_added_in_the_indexes_is_mended(tmp_path: Path, seed: int) -> None:
    random, relay = Random(seed), NaiveRelay(NOW)
    events = list(sample_events(300, seed, until=NOW))
    events += [note(content=str(n), tags=[["expiration", str(NOW + 9**9)]]) for n in range(5)]
    with opened(tmp_path) as stand:
        stand.ingest(*events)
    for event in events:
        relay.offer(event)
    for index in random.sample(INDEXES, 3):
        damage(tmp_path, random, index, random.choice([0, 3, 10**6]), random.choice([0, 3]))
    kept = list(relay.kept().values())
    with opened(tmp_path, read_only=True) as stand:
        found = stand.verify()
    with opened(tmp_path) as stand:
        report = stand.repair()
        assert bool(report.problems) == bool(found.problems) == bool(report.repaired)
        stand.assert_sound()
        for wanted in (
            *(Filter.build(kinds=[kind]) for kind in {event.kind for event in events}),
            *(Filter.build(authors=[bytes.fromhex(event.pubkey)]) for event in events[::30]),
            *(Filter.build(tags={n: [v]}) for e in events[::10] for n, v in e.indexed_tags()),
        ):
            assert_answers(stand, kept, wanted, page=100)
