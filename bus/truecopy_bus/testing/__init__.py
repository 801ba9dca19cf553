"""What an adapter of a port here must pass, for ours and for yours. Needs pytest, which nothing else here imports."""

import pytest

for _module in ("log_reading", "log_records", "log_steps", "log_suite", "log_topics"):
    pytest.register_assert_rewrite(f"truecopy_bus.testing.{_module}")

from truecopy_bus.testing.log_suite import LogSuite  # noqa: E402  (asserts are rewritten on import)

__all__ = ["LogSuite"]
