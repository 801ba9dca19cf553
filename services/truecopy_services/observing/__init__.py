"""What a running process tells of itself over HTTP: metrics, whether it lives, and whether it is ready.

Three parts that never wait for each other: one task gathers figures every few seconds (`gathering.py`), pure functions make
answers of the newest ones (`answers.py`, `metrics.py`), and a thread of its own serves them (`serving.py`), so that a process
whose event loop is stuck can still say so. Needs the extra `control`, which is imported when a server is asked for.
"""

from truecopy_services.observing.observed import observed

__all__ = ["observed"]
