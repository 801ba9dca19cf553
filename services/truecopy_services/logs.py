"""What processes log, on standard error: lines for people, or one JSON object a line.

An object has `time` (UTC), `level`, `logger` and `message`, whatever the logger was told in `extra` (projection, partition,
holder, topic, ...), and, of an error, `error` (its class) and `traceback`.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

from pythonjsonlogger.orjson import OrjsonFormatter

__all__ = ["Format", "Level", "configure"]

Format = Literal["text", "json"]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

_TEXT = "%(levelname)s %(name)s: %(message)s"


class _Lines(OrjsonFormatter):
    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """The fields of one record; those that everyone searches by come first."""
        told: dict[str, Any] = {}
        super().add_fields(told, record, message_dict)
        told.pop("exc_info", None)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        own = {"time": at, "level": record.levelname, "logger": record.name}
        log_data |= {**own, **told, **own}  # first in order, and last to be said
        if record.exc_info and record.exc_info[0] is not None:
            log_data |= {"error": record.exc_info[0].__name__, "traceback": self.formatException(record.exc_info)}


class _StandardError(logging.Handler):
    """Writes to what standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:  # as every handler does: logging must not end what it tells of
            self.handleError(record)


def configure(form: Format, level: Level) -> None:
    """Let the root logger write to standard error, in this way from now on."""
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _StandardError)]:
        root.removeHandler(handler)
    handler = _StandardError()
    handler.setFormatter(_Lines(["message"]) if form == "json" else logging.Formatter(_TEXT))
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(form == "json")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it says is said again, once, by ours
