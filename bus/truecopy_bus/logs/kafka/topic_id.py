"""The id that brokers give each life of a topic (KIP-516), which aiokafka's requests are too old to ask for.

A Metadata request of version 12, for one topic, that may not create it. It is written and read here by hand, up to the id and
no further; to aiokafka's connection it is a request like its own. Source: the Kafka protocol guide, Metadata, and KIP-482 for
compact strings and tagged fields. Brokers answer it from Kafka 3.1 on.
"""

from io import BytesIO
from typing import Any, ClassVar
from uuid import UUID

__all__ = ["TopicIdRequest"]

_NO_TAGS = b"\0"


class TopicIdRequest:
    """Asks for a topic's id. What `send` of a connection returns for it is the UUID; that of no topic is 0."""

    API_KEY: ClassVar[int] = 3
    API_VERSION: ClassVar[int] = 12

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self.RESPONSE_TYPE = self

    def prepare(self, versions: Any) -> "TopicIdRequest":
        """What is sent to a broker that knows these versions."""
        known = versions[self.API_KEY]
        if not known[0] <= self.API_VERSION <= known[1]:
            raise OSError(f"the broker tells no topic ids: it knows Metadata {known}, expected {self.API_VERSION} among them")
        return self

    def build_request_header(self, *, correlation_id: int, client_id: str) -> "_Bytes":
        name = client_id.encode()
        numbers = self.API_KEY.to_bytes(2) + self.API_VERSION.to_bytes(2) + correlation_id.to_bytes(4)
        return _Bytes(numbers + len(name).to_bytes(2) + name + _NO_TAGS)

    def encode(self) -> bytes:
        """One topic by its name, without an id; it may not be created, and nobody's rights are asked for."""
        name = self._topic.encode()
        topic = bytes(16) + _varint(len(name) + 1) + name + _NO_TAGS
        return _varint(2) + topic + b"\0\0" + _NO_TAGS

    def parse_response_header(self, answer: BytesIO) -> "_Header":
        header = _Header(int.from_bytes(answer.read(4)))
        _skip_tags(answer)
        return header

    def decode(self, answer: BytesIO) -> UUID:
        answer.read(4)  # throttle time
        for _ in range(_number(answer) - 1):
            answer.read(4)  # node
            _skip_text(answer)  # host
            answer.read(4)  # port
            _skip_text(answer)  # rack
            _skip_tags(answer)
        _skip_text(answer)  # cluster
        answer.read(4)  # controller
        if _number(answer) < 2:
            return UUID(int=0)
        answer.read(2)  # what went wrong shows in an id of 0
        _skip_text(answer)  # name
        return UUID(bytes=answer.read(16))


class _Bytes(bytes):
    """Bytes with the method that a connection calls."""

    def encode(self) -> bytes:
        return self


class _Header:
    def __init__(self, correlation_id: int) -> None:
        self.correlation_id = correlation_id


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _number(answer: BytesIO) -> int:
    number = shift = 0
    while (byte := answer.read(1)[0]) > 0x7F:
        number |= (byte & 0x7F) << shift
        shift += 7
    return number | byte << shift


def _skip_text(answer: BytesIO) -> None:
    answer.read(max(0, _number(answer) - 1))


def _skip_tags(answer: BytesIO) -> None:
    for _ in range(_number(answer)):
        _number(answer)
        answer.read(_number(answer))
