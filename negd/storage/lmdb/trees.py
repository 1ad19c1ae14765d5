"""A committed state of the file looked at without LMDB: which pages of its trees are damaged.

LMDB may read and write what is found whole here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

import numpy as np

from negd.storage.lmdb.pace import Pause, at_once
from negd.storage.lmdb.pages import (
    BIG,
    MANY,
    METAS,
    TREE,
    DamagedPage,
    Meta,
    Node,
    PageFile,
    Tree,
    fixed_width,
    nodes,
    within,
)

_HAS_MANY = 4
"""Flag of a tree whose keys may have several values."""

NO_START = "data.mdb does not begin as a database does"
EMPTY = "data.mdb is empty"

_FREE, _NAMES = "free pages", "databases"


def damaged_meta(path: str) -> str | None:
    """What is wrong with the meta pages; None where LMDB, which needs both, may open the file."""
    with PageFile(path) as file:
        if len(file.metas()) == METAS or file.is_of_another_version:
            return None
        return NO_START


class State:
    """What a meta page leads to.

    :param pause: called between pages.
    :ivar trees: of the databases, by name.
    :ivar faults: of the pages that were read so far, one line each.
    :ivar events: how many there are on the pages that :meth:`look` could read.
    """

    def __init__(self, file: PageFile, meta: Meta, pause: Pause = at_once) -> None:
        self._file = file
        self._pause = pause
        self._meta = meta
        self._last = min(meta.last, file.count - 1)
        self._claimed = bytearray(file.count)
        self._widths: dict[str, int] = {}
        self.faults: list[str] = []
        self.events = 0
        self.trees: dict[str, Tree] = {}
        for number, page, found in self._leaves(_NAMES, meta.main):
            for node in found:
                try:
                    if node.flags == TREE:
                        self.trees[node.key.decode(errors="replace")] = Tree.of(page, node)
                except DamagedPage as error:
                    self._blame(_NAMES, number, error)

    @classmethod
    def of(cls, file: PageFile, transaction: int, pause: Pause = at_once) -> State | None:
        """That of a transaction; None where it is not, or no longer, what a meta page says."""
        metas = [meta for meta in file.metas() if meta.transaction == transaction]
        return cls(file, metas[0], pause) if metas else None

    def look(self, names: Collection[str], leaves: Collection[str] | None = None) -> None:
        """Look at the pages of some databases, and note their faults.

        :param leaves: the databases whose leaf pages are looked at too; None for all of them.
        """
        for name in names:
            if name in self.trees and (leaves is None or name in leaves):
                self._look(name, self.trees[name])
            elif name in self.trees:
                deque(self._ends(name, self.trees[name], claimed=False), maxlen=0)
        for _, value in list(self._values(_FREE, self._meta.free)):
            self._look_at_free(value, everything=leaves is None)

    def entries(self, name: str) -> tuple[list[tuple[bytes, bytes]], bool]:
        """What can be read of a database with one value to a key, and whether that is all."""
        if name not in self.trees:
            return [], False
        known = len(self.faults)
        self._claimed = bytearray(self._file.count)
        found = list(self._values(name, self.trees[name]))
        return found, len(self.faults) == known

    def _blame(self, name: str, number: int, error: DamagedPage) -> None:
        self.faults.append(f"page {number} of {name} {error}")

    def _claim(self, first: int, count: int = 1) -> None:
        """See that pages are the file's, and belong to nothing else."""
        after = first + count
        if not METAS <= first < after <= self._last + 1:
            raise DamagedPage("is not in the file")
        if any(self._claimed[first:after]):
            raise DamagedPage("is in use elsewhere")
        self._claimed[first:after] = b"\1" * count

    def _ends(self, name: str, tree: Tree, claimed: bool = True) -> Iterator[int]:
        """Where the leaf pages of a tree are, in order, as far as its other pages can be read.

        :param claimed: whether they are claimed, and come at all.
        """
        stack = [(tree.root, 1)] if tree.depth else []
        while stack:
            number, level = stack.pop()
            self._pause()
            try:
                self._claim(number)
                if level == tree.depth:
                    yield number
                    continue
                children = self._file.branch(number)
                if len(children) < 2 and name != _FREE:
                    raise DamagedPage("leads to one page only")
                if max(children) > self._last:
                    raise DamagedPage("leads out of the file")
                if claimed or level + 1 < tree.depth:
                    stack += [(child, level + 1) for child in reversed(children)]
            except DamagedPage as error:
                self._blame(name, number, error)

    def _leaves(self, name: str, tree: Tree) -> Iterator[tuple[int, bytes, list[Node]]]:
        """The leaf pages of a tree that can be read, in order."""
        for number in self._ends(name, tree):
            try:
                page = self._file.leaf(number)
                found = list(nodes(page))
            except DamagedPage as error:
                self._blame(name, number, error)
            else:
                yield number, page, found

    def _values(self, name: str, tree: Tree) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of a tree with one value to a key."""
        for number, page, found in self._leaves(name, tree):
            for node in found:
                try:
                    self._look_at_node(name, page, node, many=False)
                    yield node.key, self._file.value(page, node)
                except DamagedPage as error:
                    self._blame(name, number, error)

    def _look(self, name: str, tree: Tree) -> None:
        many = bool(tree.flags & _HAS_MANY)
        for number, page, found in self._leaves(name, tree):
            if name == "events":
                self.events += len(found)
            for node in found:
                if node.flags or many:
                    try:
                        self._look_at_node(name, page, node, many)
                    except DamagedPage as error:
                        self._blame(name, number, error)

    def _look_at_node(self, name: str, page: bytes, node: Node, many: bool) -> None:
        if node.flags == BIG and not many:
            pages = self._file.span(node.begin)
            if pages < self._file.pages_for(node.size):
                raise DamagedPage("names too few overflow pages")
            self._claim(node.begin, pages)
        elif node.flags and not many:
            raise DamagedPage("has a node of a wrong kind")
        elif many:
            width = self._width(name, page, node)
            if width != self._widths.setdefault(name, width):
                raise DamagedPage("has a value of a wrong width")

    def _width(self, name: str, page: bytes, node: Node) -> int:
        """The width of the values of a key that may have many."""
        if not node.flags:
            return node.size
        if node.flags == MANY:
            return fixed_width(within(page, node))
        if node.flags != MANY | TREE:
            raise DamagedPage("has a node of a wrong kind")
        tree = Tree.of(page, node)
        for number in self._ends(name, tree):
            try:
                self._file.fixed(number, tree.width)
            except DamagedPage as error:
                self._blame(name, number, error)
        return tree.width

    def _look_at_free(self, value: bytes, everything: bool) -> None:
        """Pages that LMDB will write to must be no others."""
        listed = np.frombuffer(value, np.uint64, len(value) // 8)
        if not len(listed) or listed[0] >= len(listed):
            self.faults.append("a list of free pages does not end")
            return
        pages = listed[1 : 1 + int(listed[0])]
        if ((pages < METAS) | (pages > self._meta.last)).any():
            self.faults.append("a list of free pages names some that are none")
        elif everything:
            claimed = np.frombuffer(self._claimed, np.uint8)
            if claimed[pages[pages < len(claimed)]].any():
                self.faults.append("a list of free pages names some that are in use")
