"""What an adapter of a port here must pass, for ours and for yours. Needs pytest, which nothing else here imports."""

from truecopy_bus.testing.log_suite import LogSuite

__all__ = ["LogSuite"]
