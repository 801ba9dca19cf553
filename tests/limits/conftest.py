"""What drives ask for beside the fixtures of all tests."""

from tests.limits.clock import clock

__all__ = ["clock"]
