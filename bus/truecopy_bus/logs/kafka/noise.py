"""Quiets what aiokafka says for ever while brokers are away; its first complaint of a kind is always let through."""

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


def quiet() -> None:
    """Filter aiokafka's loggers; calling it again changes nothing."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Noise) for each in logger.filters):
            logger.addFilter(_Noise())
