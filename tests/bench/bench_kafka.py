"""CPU and rows a second from a Kafka topic into a table, against ClickHouse's own Kafka engine.

Every way to read the topic runs in a process of its own, which measures itself; rounds alternate.
Ours validates every row and stores each exactly once. ClickHouse's engine writes the same columns
into the same table. The bare loops show what the clients alone cost; "no guarantees" is aiokafka
and inserts with nothing between them. Freshness is measured afterwards, on the same broker.
"""

from __future__ import annotations

import asyncio
import importlib.util
import statistics
import subprocess
import sys

import msgspec

from shared.errors import ConfigError
from tests.bench import bench_freshness
from tests.bench.kafka_consumers import Spent
from tests.bench.kafka_topic import Filled, bench_rows, fill, running_broker
from tests.bench.load import ROOT, spread

ROWS = 1_000_000
ROUNDS = 3
LABELS = {
    "ours": "ours, all guarantees",
    "ours_with_lines": "ours, 4 more columns",
    "clickhouse": "ClickHouse's engine",
    "ours_reading": "our source alone",
    "aiokafka": "aiokafka alone",
    "confluent": "confluent-kafka alone",
    "bare": "ours, no guarantees",
}


def measure(name: str, filled: Filled) -> Spent:
    """What one way to read the topic spends, in a process of its own.

    Raises:
        RuntimeError: It failed; with what it had to say.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.kafka_consumers", name],
        cwd=ROOT,
        input=msgspec.json.encode(filled),
        capture_output=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name}: {done.stderr.decode(errors='replace')}")
    # The pipeline's log lines may stand before it.
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Spent)


def names() -> list[str]:
    """The ways that can be measured here."""
    if importlib.util.find_spec("confluent_kafka"):
        return list(LABELS)
    print("  confluent-kafka is not installed: its loop is left out")
    return [name for name in LABELS if name != "confluent"]


def run(filled: Filled, rounds: int) -> list[dict[str, Spent]]:
    """What every way spent, round by round."""
    measured = names()
    found = []
    for number in range(rounds):
        # Whoever comes first in a round is not always the same.
        order = measured[number % len(measured) :] + measured[: number % len(measured)]
        found.append({name: measure(name, filled) for name in order})
    return found


def show(found: list[dict[str, Spent]]) -> None:
    """Print medians, and the ratio to ClickHouse's engine round by round."""
    for name, label in LABELS.items():
        spent = [each[name] for each in found if name in each]
        if not spent:
            continue
        cpu_us = statistics.median(s.cpu_s / s.rows * 1e6 for s in spent)
        wall_rate = statistics.median(s.rows / s.wall_s for s in spent)
        print(
            f"  {label:<22}{cpu_us:>6.2f} us CPU a row {1e6 / cpu_us:>10,.0f} rows/s a core"
            f" {wall_rate:>10,.0f} rows/s"
        )
    ratios = [each["clickhouse"].cpu_s / each["ours"].cpu_s for each in found]
    print(f"  rows per CPU second, ours to ClickHouse's engine: {spread(ratios)}")
    walls = [each["clickhouse"].wall_s / each["ours"].wall_s for each in found]
    print(f"  rows per second, ours to ClickHouse's engine: {spread(walls)}")


def main() -> None:
    rows = bench_rows(ROWS)
    title = f"Kafka -> table, {rows:,} rows (must 1.1x, aim 1.5x and 200,000 rows/s a core)"
    print(title, flush=True)
    try:
        with running_broker() as bootstrap_servers:
            show(run(asyncio.run(fill(bootstrap_servers, rows)), ROUNDS))
            print(
                "Kafka timestamp -> visible (must p50 1 s, p99 2.5 s; aim 0.6 s, 1.5 s)", flush=True
            )
            bench_freshness.show(bench_freshness.run(bootstrap_servers))
    except ConfigError as error:
        print(f"  not measured: {error}")


if __name__ == "__main__":
    main()
