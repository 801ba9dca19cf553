"""Real Kafka and PostgreSQL servers for tests, `truecopy dev` and the demo, with Docker or without."""

from truecopy_services.servers.kafka import fetch_kafka, kafka
from truecopy_services.servers.kafka_cluster import kafka_cluster
from truecopy_services.servers.postgres import postgres
from truecopy_services.servers.process import ForeignServerError, Server, ServerError

__all__ = ["ForeignServerError", "Server", "ServerError", "fetch_kafka", "kafka", "kafka_cluster", "postgres"]
