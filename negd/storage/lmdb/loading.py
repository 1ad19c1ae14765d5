"""What a writing process keeps in memory of a store, read in bulk as it opens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from negd.nostr.filter import EVERYTHING, Filter
from negd.reconcile import RecordSet
from negd.storage.lmdb.environment import Database, Environment, Transaction
from negd.storage.lmdb.live import Sets
from negd.storage.lmdb.postings import POSTING, SERIAL, Mask, Rows, Serials, numbers
from negd.storage.lmdb.reader import Reader
from negd.storage.lmdb.roll import Roll
from negd.storage.lmdb.shelf import IDS


class Memory(NamedTuple):
    """:ivar sets: as :class:`negd.storage.lmdb.live.LiveSets` takes them over."""

    roll: Roll
    sets: Sets


def load(environment: Environment, standing: list[Filter]) -> Memory:
    """All of it.

    :param standing: filters without bounds; one of them may be for everything.
    """
    roll, everything = _load(environment)
    reader = Reader(environment, roll)
    return Memory(
        roll,
        {
            wanted: everything if wanted == EVERYTHING else _lasting(reader.snapshot(wanted, now=0))
            for wanted in standing
        },
    )


def _lasting(records: RecordSet) -> RecordSet:
    """The same records in memory that is given back piece by piece as the set changes."""
    return RecordSet.from_records(records.to_array(), is_sorted=True)


def _load(environment: Environment) -> tuple[Roll, RecordSet]:
    """The roll and the records of all events: times and kinds from ``kinds``, ids from ``ids``.

    Some 0.5 us an event.  What is in one of them only is damage, and left out.
    """
    databases = environment.databases
    with environment.read() as txn:
        entries = _lists(txn, databases.ids, [IDS], 32 + SERIAL)
        keys = list(txn.cursor(databases.kinds).iternext_nodup(values=False))
        postings = _lists(txn, databases.kinds, keys, POSTING)
    serials = _serials(postings)
    order = np.argsort(serials, kind="stable")
    serials, postings = serials[order], postings[order]
    places, found = _look_up(_serials(entries), serials)
    if not found.all():
        places, serials, postings = places[found], serials[found], postings[found]
    records = np.concatenate((postings[:, 2:10], entries[places, 1:33]), axis=1)
    kinds = postings[:, :2].copy().view(">u2")[:, 0].astype(np.uint16)
    return Roll(serials, records, kinds), RecordSet.from_records(records)


def _lists(txn: Transaction, database: Database, keys: list[bytes], width: int) -> Rows:
    """The whole lists, keys and values, one entry a row."""
    if not keys:
        return np.empty((0, 2 + width), np.uint8)
    data = txn.cursor(database).getmulti(keys, dupdata=True, dupfixed_bytes=width, keyfixed=True)
    return np.frombuffer(data, np.uint8).reshape(-1, len(keys[0]) + width)


def _serials(entries: Rows) -> Serials:
    """The serials with which they end."""
    return numbers(entries, entries.shape[1] - SERIAL, SERIAL)


def _look_up(serials: Serials, wanted: Serials) -> tuple[Serials, Mask]:
    """Where each of the wanted is among the serials, and which of them are there."""
    if not len(serials):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    order = np.argsort(serials)
    at = np.minimum(serials[order].searchsorted(wanted), len(serials) - 1)
    places = order[at]
    return places, serials[places] == wanted
