"""How a group reads a topic of Kafka, and the number that stands for the topic."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from msgspec import Struct

from ingest.source.aiokafka_adapter import TopicFacts

Reset = Literal["earliest", "latest", "error"]
# The share of the session time-out for which an answered heartbeat is trusted.
LEASE_SHARE = 2 / 3


class KafkaSourceOptions(Struct, frozen=True, kw_only=True):
    """How a group reads a topic.

    ``reset`` says where a group begins that has never committed anything. ``revoke_timeout_s`` is
    how long ranges under way may take to finish when the group rebalances. ``epoch`` is raised to
    read everything as records that were never seen before.
    """

    reset: Reset = "earliest"
    session_timeout_s: float = 15.0
    heartbeat_interval_s: float = 2.0
    rebalance_timeout_s: float = 45.0
    revoke_timeout_s: float = 20.0
    commit_timeout_s: float = 10.0
    max_partition_fetch_bytes: int = 4 << 20
    fetch_max_bytes: int = 32 << 20
    with_keys: bool = False
    with_headers: bool = False
    epoch: int = 0

    @property
    def lease_s(self) -> float:
        """How old the last answer to a heartbeat or commit may be when something is inserted."""
        return self.session_timeout_s * LEASE_SHARE

    def consumer_options(self) -> dict[str, Any]:
        """What the library's consumer is made with."""
        return {
            "session_timeout_ms": int(self.session_timeout_s * 1000),
            "heartbeat_interval_ms": int(self.heartbeat_interval_s * 1000),
            "rebalance_timeout_ms": int(self.rebalance_timeout_s * 1000),
            # A JoinGroup is answered only when everybody has joined.
            "request_timeout_ms": int((self.rebalance_timeout_s + 5.0) * 1000),
            "enable_auto_commit": False,
            **fetch_options(self),
        }


def fetch_options(options: KafkaSourceOptions) -> dict[str, Any]:
    """How records are fetched, with or without a group."""
    return {
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "max_partition_fetch_bytes": options.max_partition_fetch_bytes,
        "fetch_max_bytes": options.fetch_max_bytes,
        "fetch_max_wait_ms": 250,
        # A new partition or a new topic of the name is noticed within this time.
        "metadata_max_age_ms": 15_000,
    }


def stream_of(facts: TopicFacts, epoch: int) -> int:
    """The number that stands for a topic's records: no other topic of any cluster has it."""
    text = f"{facts.cluster_id}\0{facts.topic_id}\0{epoch}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
