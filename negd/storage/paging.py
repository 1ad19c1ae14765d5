"""Pages of answers, which end by their events and by the bytes of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from negd.interfaces import Page

PAGE_BYTES = 1_000_000
"""Bytes of JSON with which a page is full, however few events these are."""


def page_of(records: Iterable[bytes], size: int, json_of: Callable[[bytes], bytes | None]) -> Page:
    """The page of these records; one beyond ``size`` says that there are more.

    :param json_of: an event's JSON by its id; None for one that is not held.
    """
    events: list[bytes] = []
    length, last = 0, None
    for place, record in enumerate(records):
        if place == size or length >= PAGE_BYTES:
            return Page(events, last)
        json = json_of(record[8:])
        if json is not None:
            events.append(json)
            length += len(json)
        last = record
    return Page(events, None)
