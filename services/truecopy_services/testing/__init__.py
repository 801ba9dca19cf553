"""For tests of services: the harness that `Truecopy.test` opens, and what it raises. Needs nothing but the base install."""

from truecopy_services.testing.errors import NotConvergedError, NotSettledError
from truecopy_services.testing.harness import Harness

__all__ = ["Harness", "NotConvergedError", "NotSettledError"]
