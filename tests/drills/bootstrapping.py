"""The points of a bootstrap, which have their drill in test_bootstrap_kills."""

from truecopy_bus.points import Point

BOOTSTRAPPING = [point for point in Point if point.value.startswith("bootstrap.")]
