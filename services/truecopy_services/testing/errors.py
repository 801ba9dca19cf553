"""What a test under the harness fails with. Each names the seed of its delivery, where there is one."""

from collections.abc import Sequence

from truecopy_schemas.errors import TruecopyError

__all__ = ["NotConvergedError", "NotSettledError"]


class NotSettledError(TruecopyError):
    """Not everything that was published has been applied. Mend what the message names."""

    def __init__(self, *, left: Sequence[str], limit_s: float, timed_out: bool) -> None:
        limit = f"in {limit_s:g} s" if timed_out else "and nothing more will move"
        super().__init__(
            f"not settled {limit}:" + "".join(f"\n  {line}" for line in left) + "\n"
            "mend what these lines name; where keys are meant to be parked, settle(parked=True) and test(prove=False)"
        )
        self.left, self.limit_s = tuple(left), limit_s


class NotConvergedError(TruecopyError):
    """A replica is not proven a true copy. A reducer that depends on more than row, event and change is the usual cause."""

    def __init__(self, *, found: Sequence[str]) -> None:
        super().__init__(
            "not proven equal:" + "".join(f"\n  {line}" for line in found) + "\n"
            "a reducer may depend on row, event and change alone, a merge on its two rows; "
            "where the test means it to differ, give test(prove=False)"
        )
        self.found = tuple(found)
