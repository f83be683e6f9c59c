"""The checkpoints of a sweep serve the tests of methods too."""

from tests.sweep.conftest import checkpoints

__all__ = ["checkpoints"]
