"""For tests of your own: given, when, then for reducers, and what an adapter of a replica must pass. Needs pytest."""

import pytest

for _part in ("amending", "effects", "fencing", "gathering", "plans", "reading", "staging", "storing", "suite"):
    pytest.register_assert_rewrite(f"truecopy_projections.testing.replica_{_part}")

from truecopy_projections.testing.gathering import gathering  # noqa: E402
from truecopy_projections.testing.given import given  # noqa: E402  (asserts are rewritten on import)
from truecopy_projections.testing.replica_suite import ReplicaSuite  # noqa: E402

__all__ = ["ReplicaSuite", "gathering", "given"]
