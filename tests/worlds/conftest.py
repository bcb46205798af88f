"""What tests of renderers share."""

import contextlib

import pytest

from experiments.worlds import batch


@contextlib.contextmanager
def _rendering_here():
    from experiments.worlds.doom import jobs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "in_processes", lambda function, listed, workers: map(function, listed))
        yield
    jobs.close()


@pytest.fixture(scope="session")
def rendering_here():
    """A context in which clips are rendered in this process: others, which test_part.py has, take seconds to start."""
    return _rendering_here
