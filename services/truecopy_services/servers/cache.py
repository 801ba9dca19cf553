"""What is downloaded or copied once and kept: whole or absent, so that a second run needs no network."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["cache_directory", "made_once"]


def cache_directory() -> Path:
    """$TRUECOPY_CACHE, else the user's cache; root's is /var/cache, which a server that dropped root can enter."""
    if given := os.environ.get("TRUECOPY_CACHE"):
        directory = Path(given).absolute()
    elif os.geteuid() == 0:
        directory = Path("/var/cache/truecopy")
    else:
        directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "truecopy"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The cached directory `name`, filled by `make` the first time, whole or not at all, by one process at a time."""
    final = cache_directory() / name
    if not final.is_dir():
        with (cache_directory() / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not final.is_dir():
                partial = final.with_name(f"{name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                partial.rename(final)
    return final
