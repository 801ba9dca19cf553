"""Quiets what aiokafka says for ever while brokers are away, and what it must never say.

Its first complaint of a kind is always let through. At level DEBUG it writes every request as it is, the password of a
login too: those are left out.
"""

import logging
import time
from typing import Final

__all__ = ["quiet"]

NOISE_S: Final = 30.0
"""Seconds for which an equal complaint is not logged again."""
LOGGERS: Final = ("aiokafka", "aiokafka.cluster", "aiokafka.consumer.fetcher", "aiokafka.producer.sender")


class _Noise(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now, complaint = time.monotonic(), str(record.msg)
        if now - self._said.get(complaint, -NOISE_S) < NOISE_S:
            return False
        self._said[complaint] = now
        return True


class _Logins(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        said = record.args if isinstance(record.args, tuple) else ()
        return not any(type(each).__name__.startswith("SaslAuthenticate") for each in said)


def quiet() -> None:
    """Filter aiokafka's loggers; calling it again changes nothing."""
    for name, needed in (*((name, _Noise) for name in LOGGERS), ("aiokafka.conn", _Logins)):
        logger = logging.getLogger(name)
        if not any(isinstance(each, needed) for each in logger.filters):
            logger.addFilter(needed())
