"""Whose the files of a store are: root repairs, and a daemon of less power opens it."""

from __future__ import annotations

import os
import stat
from contextlib import suppress


def give_away(path: str) -> None:
    """Give what root has made to the owner of the folder around it; others' files stay theirs.

    Nothing is done where somebody else than root asks, who could not give anything away.

    :raises OSError: the system does not let it.
    """
    if os.geteuid() != 0:
        return
    around = os.stat(os.path.dirname(os.path.abspath(path)))
    with suppress(FileNotFoundError):
        made = os.lstat(path)
        # A link may lead to what is not the store's, whoever has put it there.
        is_plain = stat.S_ISDIR(made.st_mode) or (stat.S_ISREG(made.st_mode) and made.st_nlink == 1)
        if made.st_uid == 0 and around.st_uid != 0 and is_plain:
            os.chown(path, around.st_uid, around.st_gid, follow_symlinks=False)
