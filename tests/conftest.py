"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from twisted.trial.unittest import SynchronousTestCase

# The daemons and negctls that tests start would compile all they import, each time anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes tells of the machine's load, not of the code. What most deserves many
# examples says itself how many.
settings.register_profile(
    "negd",
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("negd")


@pytest.fixture(autouse=True, scope="session")
def trial_files_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trial's ``mktemp`` makes folders in the working directory, which is a checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            SynchronousTestCase,
            "mktemp",
            lambda self: str(tmp_path_factory.mktemp("trial") / "file"),
        )
        yield
