"""The log port on Apache Kafka. Needs the extra: pip install 'truecopy[kafka]'."""

from truecopy_bus.logs.kafka.log import KafkaLog
from truecopy_bus.logs.kafka.settings import KafkaSettings

__all__ = ["KafkaLog", "KafkaSettings"]
