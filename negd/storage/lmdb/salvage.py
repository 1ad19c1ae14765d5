"""Saving what is left of a store that LMDB cannot read, or not without ending the process.

Every page of the data file is looked at, also those that no tree leads to any more: an event is
known by its id and signature wherever it lies, and stored again under the rules, so that old
copies of what was replaced or deleted do no harm.  What is no event cannot prove itself so: what
is deleted is never taken back, so any copy of it is right; peers and ledgers are taken from where
a tree leads to them, or not at all.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from json import JSONDecoder

from negd.errors import StorageError
from negd.nostr.event import Event, InvalidEvent, check, decode
from negd.nostr.packed import event_of
from negd.storage.lmdb.book import is_readable
from negd.storage.lmdb.environment import (
    SCHEMA,
    Environment,
    data_file,
    replace_unopened,
)
from negd.storage.lmdb.pages import DamagedPage, Node, PageFile, nodes
from negd.storage.lmdb.rewrite import fill, made_in
from negd.storage.lmdb.trees import State

_HEAD = 138
"""Bytes of a packed event before its tags."""

_STARTS = re.compile(rb'\[\["|\[\[\]|\[\],"content":"|\{"id":"')
"""The beginning of tags in a packed event, and that of an event in JSON (schema 1)."""

_LARGEST = 1 << 24
"""Bytes of an event at most; no more is read of what pretends to be one."""

_CONTENT = ',"content":'
"""What comes between the tags and the content."""

_ID_AND_AUTHOR = 64
_DELETIONS = ((0, _ID_AND_AUTHOR, 0), (0, 50, 8))
"""Flags, bytes of key and of value in the two databases that say what is deleted."""

_LEDGER = ("residues", "ledger", "ledger_due")

_Entries = list[tuple[bytes, bytes]]

_json = JSONDecoder(strict=False)


def salvage_folder(folder: str, progress: Callable[[int, int], None]) -> list[str]:
    """Make a store anew that cannot be opened; parameters and errors as of :func:`salvage`.

    :returns: what is to be told of it.
    """
    return _salvage(data_file(folder), partial(replace_unopened, folder), progress)


def salvage_open(environment: Environment, progress: Callable[[int, int], None]) -> list[str]:
    """As :func:`salvage_folder`, of a store that is open for writing."""
    return _salvage(environment.data, partial(environment.replace, keep=True), progress)


def _salvage(
    path: str,
    replace: Callable[[Callable[[str], bool]], str | None],
    progress: Callable[[int, int], None],
) -> list[str]:
    told: list[str] = []

    def make(folder: str) -> bool:
        with made_in(folder, os.stat(path).st_size) as target:
            told.extend(salvage(path, target, progress))
            target.sync()
        return True

    kept = replace(make)
    return [*told, f"the damaged file is kept as {kept}"]


def salvage(path: str, target: Environment, progress: Callable[[int, int], None]) -> list[str]:
    """Store again what can be found in a data file.

    :param progress: told (copies of events looked at, copies in all).
    :returns: what was saved and what not, in lines for a person.
    :raises StorageError: it is of a newer schema, or nothing in it is negd's.
    """
    with PageFile(path) as file:
        if file.is_of_another_version:
            raise StorageError(f"{path} was written by an LMDB that negd knows nothing of")
        states = [State(file, meta) for meta in file.metas()]
        for state in states:
            _see_schema(path, state)
        found = _Found(file)
        lost = _Others(states, found, target).copy()
        fill(target, found.events(), found.copies, os.stat(path).st_size, progress)
    with target.read() as txn:
        saved = txn.stat(target.databases.events)["entries"]
        others = txn.stat(target.databases.peers)["entries"]
    if not (saved or others or any("events" in state.trees for state in states)):
        raise StorageError(
            f"there is nothing of negd's in {path}; it stays as it is: put a copy of the store in "
            f"its place, or remove {os.path.dirname(path)} to begin anew"
        )
    held = next((state.trees["events"].entries for state in states if "events" in state.trees), 0)
    counted = f", where the store counted {held:,}" if held else ""
    return [f"saved {saved:,} events{counted}", *lost]


def _see_schema(path: str, state: State) -> None:
    schema = dict(state.entries("meta")[0]).get(b"schema", b"")
    if schema.isdigit() and int(schema) > SCHEMA:
        raise StorageError(f"{path} is of schema {int(schema)}; this negd reads schema {SCHEMA}")


class _Found:
    """What the pages of a file hold, whether or not a tree leads to it.

    :ivar copies: how many copies of events there may be.
    :ivar deleted_ids: as the database of that name, and ``deleted_addresses``.
    """

    def __init__(self, file: PageFile) -> None:
        self._file = file
        self._big_pages = array("Q")
        self.copies = 0
        self.deleted_ids: set[bytes] = set()
        self.deleted_addresses: dict[bytes, bytes] = {}
        for begin, data in file.blocks():
            self.copies += sum(1 for _ in self._small(data))
            for number, page in file.own_pages(begin, data):
                if page is None:
                    self._big_pages.append(number)
                else:
                    with suppress(DamagedPage):
                        self._note_deletions(page)
        self.copies += len(self._big_pages)

    def _note_deletions(self, page: bytes) -> None:
        """Take a page as part of what is deleted, if all that is on it is of such a form.

        :raises DamagedPage: it is.
        """
        form = _form(next(nodes(page)))
        if form in _DELETIONS:
            found = list(nodes(page))
            entries = [(node.key, self._file.value(page, node)) for node in found]
            if {_form(node) for node in found} == {form}:
                self.note_deletions(entries)

    def note_deletions(self, entries: _Entries) -> None:
        """Of all copies the one that deletes the most is the last one."""
        for key, until in entries:
            if len(key) == _ID_AND_AUTHOR:
                self.deleted_ids.add(key)
            else:
                self.deleted_addresses[key] = max(until, self.deleted_addresses.get(key, b""))

    def events(self) -> Iterator[Event | None]:
        """All valid events, once each; None for every other copy."""
        known: set[bytes] = set()
        for event in self._copies():
            if event is None or event.id_bytes in known or check(event) is not None:
                yield None
            else:
                known.add(event.id_bytes)
                yield event

    def _copies(self) -> Iterator[Event | None]:
        """What may be events, decoded; None for each that is none."""
        for _, data in self._file.blocks():
            yield from map(_first_event, self._small(data))
        for number in self._big_pages:
            try:
                yield _first_event(self._file.overflow(number, _LARGEST))
            except DamagedPage:
                yield None

    def _small(self, data: bytes) -> Iterator[bytes]:
        """Where events of less than a page may begin in a block, each up to the end of its page.

        Neither nodes nor the heads of pages are asked: a page that is taken for something else
        keeps much of what was on it.
        """
        size = self._file.size
        for match in _STARTS.finditer(data):
            place = match.start()
            begin = place if data[place] == ord("{") else place - _HEAD
            page = place - place % size
            if begin >= page:
                yield data[begin : page + size]


def _form(node: Node) -> tuple[int, int, int]:
    return node.flags, len(node.key), node.size


def _first_event(data: bytes) -> Event | None:
    """The event with which data begin, whatever comes after it."""
    text = data.decode("latin-1")  # a character for each byte
    with suppress(ValueError, RecursionError, InvalidEvent):
        if text.startswith('{"id":"'):
            return decode(data[: _json.raw_decode(text)[1]])
    with suppress(ValueError, RecursionError, InvalidEvent):
        _, end = _json.raw_decode(text, _HEAD)
        if text.startswith(_CONTENT, end):
            return event_of(data[: _json.raw_decode(text, end + len(_CONTENT))[1]])
    return None


class _Others:
    """What is no event, on its way to another file."""

    def __init__(self, states: list[State], found: _Found, target: Environment) -> None:
        self._states = states
        self._found = found
        self._target = target

    def copy(self) -> list[str]:
        """Copy it; what may be lost, in words."""
        lost = []
        ids, ids_whole = self._read("deleted_ids")
        addresses, addresses_whole = self._read("deleted_addresses")
        self._found.note_deletions(
            [(k, v) for k, v in ids + addresses if (0, len(k), len(v)) in _DELETIONS]
        )
        self._put("deleted_ids", [(key, b"") for key in self._found.deleted_ids])
        self._put("deleted_addresses", list(self._found.deleted_addresses.items()))
        if not (ids_whole and addresses_whole):
            lost.append("some of what was deleted may be back, where the deletion is lost too")
        peers, whole = self._read("peers")
        peers = [entry for entry in peers if is_readable("peers", *entry)]
        self._put("peers", peers)
        if not whole:
            lost.append(f"{len(peers)} peers could be read, others may be lost")
        if not self._copy_ledger():
            lost.append("the differences noted with peers are lost, and are found anew")
        return lost

    def _read(self, name: str) -> tuple[_Entries, bool]:
        """All of a database from the latest state that has all of it; else what can be read."""
        read: dict[bytes, bytes] = {}
        for state in self._states:
            entries, whole = state.entries(name)
            if whole:
                return entries, True
            read = dict(entries) | read
        return list(read.items()), False

    def _copy_ledger(self) -> bool:
        """All of it or nothing: its databases count and order what is in the other ones."""
        for state in self._states:
            read = {name: state.entries(name) for name in _LEDGER}
            if all(whole for _, whole in read.values()):
                for name, (entries, _) in read.items():
                    self._put(name, [entry for entry in entries if is_readable(name, *entry)])
                return True
        return False

    def _put(self, name: str, entries: _Entries) -> None:
        with self._target.write() as txn:
            txn.cursor(getattr(self._target.databases, name)).putmulti(sorted(entries))
