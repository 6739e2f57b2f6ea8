"""The names inside aiokafka that our adapter uses: this fails when one of them moves."""

from __future__ import annotations

import importlib.metadata
import inspect
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.consumer import fetcher, group_coordinator, subscription_state
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.offset import OffsetRequest

from ingest.source import aiokafka_adapter
from ingest.source.lenient_records import KeptRecords

ROOT = Path(__file__).parents[2]


def test_the_library_is_the_very_version_that_the_adapter_was_written_for() -> None:
    assert importlib.metadata.version("aiokafka") == aiokafka_adapter.PINNED_VERSION


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (
            group_coordinator.GroupCoordinator,
            (
                "_do_heartbeat",
                "_maybe_leave_group",
                "_send_req",
                "check_errors",
                "coordinator_dead",
                "ensure_coordinator_known",
                "request_rejoin",
                "reset_generation",
            ),
        ),
        (fetcher.Fetcher, ("_create_fetch_waiter", "_notify", "seek_to")),
        (fetcher.FetchResult, ("_update_position", "check_assignment", "has_more")),
        (fetcher.FetchError, ("check_raise",)),
        (
            fetcher.PartitionRecords,
            ("_consume_aborted_up_to", "_contains_abort_marker", "_unpack_records"),
        ),
        (subscription_state.SubscriptionState, ("fetch_context",)),
        (subscription_state.Assignment, ("state_value",)),
        (AIOKafkaClient, ("force_metadata_update", "get_random_node", "send")),
        (ClusterMetadata, ("leader_for_partition",)),
    ],
)
def test_the_methods_are_there(owner: type, names: tuple[str, ...]) -> None:
    assert [name for name in names if not callable(getattr(owner, name, None))] == []


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (group_coordinator.GroupCoordinator, ("_coordination_task",)),
        (AIOKafkaConsumer, ("_client", "_coordinator", "_fetcher", "_subscription")),
        (group_coordinator.GroupCoordinator, ("generation", "group_id", "member_id")),
        (
            fetcher.Fetcher,
            (
                "_fetch_task",
                "_isolation_level",
                "_pending_tasks",
                "_records",
                "_wait_consume_future",
            ),
        ),
        (AIOKafkaClient, ("cluster",)),
        (fetcher.FetchResult, ("_assignment", "_partition_records")),
        (
            fetcher.PartitionRecords,
            ("_aborted_producers", "_records", "_tp", "next_fetch_offset"),
        ),
    ],
)
def test_the_attributes_are_set(owner: type, names: tuple[str, ...]) -> None:
    source = inspect.getsource(owner.__init__)  # type: ignore[misc]
    assert [name for name in names if f"self.{name} = " not in source.replace(":", " =")] == []


def test_requests_take_their_arguments_in_this_order() -> None:
    assert list(inspect.signature(OffsetCommitRequest.__init__).parameters)[1:] == [
        "consumer_group",
        "consumer_group_generation_id",
        "consumer_id",
        "retention_time",
        "topics",
    ]
    assert list(inspect.signature(OffsetFetchRequest.__init__).parameters)[1:] == [
        "consumer_group",
        "partitions",
    ]
    assert list(inspect.signature(OffsetRequest.__init__).parameters)[1:] == [
        "replica_id",
        "isolation_level",
        "topics",
    ]


def test_what_is_fetched_is_made_by_a_name_that_can_be_replaced() -> None:
    source = inspect.getsource(fetcher.Fetcher._proc_fetch_request)
    assert "records = MemoryRecords(part_data[-1])" in source
    assert fetcher.MemoryRecords is KeptRecords


def test_nothing_but_the_adapter_touches_the_inside() -> None:
    private = ("._coordinator", "._fetcher", "._subscription", "._client.")
    for path in ROOT.glob("ingest/**/*kafka*.py"):
        if path.name != "aiokafka_adapter.py":
            text = path.read_text()
            assert [name for name in private if name in text] == [], path
