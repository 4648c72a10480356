"""A full disk."""

import contextlib
import resource


@contextlib.contextmanager
def files_of_at_most(size: int):
    """The system writes no byte beyond this size to any file, as where a disk is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
