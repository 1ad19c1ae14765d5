"""The way to the daemon, for the commands that need one."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from negd.control.client import ControlClient


def connect(args: argparse.Namespace) -> ControlClient:
    """A client of the daemon that the arguments name.

    :raises negd.errors.ConfigError: the address is malformed.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is told by us, once
    from negd.control.client import ControlClient

    return ControlClient(args.control)
