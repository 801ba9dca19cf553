"""Suites for those who write adapters: see replica_suite."""

__all__: list[str] = []
