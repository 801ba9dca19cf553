"""The points that have their drill in a module of their own."""

from truecopy_bus.points import Point

__all__ = ["AMENDING", "BOOTSTRAPPING", "ELSEWHERE", "REPLAYING", "ROLLING_BACK", "VERSIONING"]

AMENDING = [point for point in Point if point.value.startswith("amend.")]
"""In test_amend_kills."""
BOOTSTRAPPING = [point for point in Point if point.value.startswith("bootstrap.")]
"""In test_bootstrap_kills."""
REPLAYING = [point for point in Point if point.value.startswith("replay.")]
"""In test_replay_kills."""
ROLLING_BACK = [point for point in Point if point.value.startswith("rollback.")]
"""In test_rollback_kills."""
VERSIONING = [point for point in Point if point.value.startswith(("rebuild.", "swap."))]
"""In test_version_kills."""
ELSEWHERE = [*AMENDING, *BOOTSTRAPPING, *REPLAYING, *ROLLING_BACK, *VERSIONING]
