"""What concerns the embedded engine's process and folder; each engine here has its own process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from shared.clickhouse.embedded import EmbeddedClickHouse, open_embedded
from shared.errors import ConfigError, DataFolderOwnedError

ROOT = Path(__file__).parents[2]

PRELUDE = """
import asyncio, json, os, signal, sys
from pathlib import Path
from shared.clickhouse.contract import Identity, Insert, Run, Statement
from shared.clickhouse.embedded import open_embedded
from shared.errors import AppError

class Lines:
    def __init__(self, rows):
        self.rows = rows
    @property
    def row_count(self):
        return len(self.rows)
    def json_lines(self):
        return [json.dumps(row).encode() + b"\\n" for row in self.rows]

def block(token, values):
    return Insert(
        database="workspace", table="t", columns=(("a", "Int32"),), token=token,
        block=Lines([{"a": value} for value in values]),
    )

async def numbers(engine, sql):
    answer = await engine.fetch(Statement(sql=sql, format="JSONCompact"))
    return [row if len(row) > 1 else row[0] for row in json.loads(answer.body)["data"]]

CREATE = [
    "CREATE TABLE IF NOT EXISTS t (a Int32) ENGINE = MergeTree ORDER BY a"
    " SETTINGS non_replicated_deduplication_window = 1000",
    "CREATE TABLE IF NOT EXISTS v (a Int32) ENGINE = MergeTree ORDER BY a"
    " SETTINGS non_replicated_deduplication_window = 1000",
    "CREATE MATERIALIZED VIEW IF NOT EXISTS mv TO v AS SELECT a FROM t",
    "SYSTEM STOP MERGES",
]
folder = Path(sys.argv[1])
"""


def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, *arguments: str | Path) -> Any:
    process = start(script, *arguments)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


INSERT = """
async def main():
    engine = await open_embedded(folder)
    for sql in CREATE:
        await engine.execute(Statement(sql=sql))
    for token, values in json.loads(sys.argv[2]).items():
        await engine.insert(block(token, values))
    rows = [await numbers(engine, f"SELECT a FROM {table} ORDER BY a") for table in ("t", "v")]
    await engine.close()
    print(json.dumps(rows))
asyncio.run(main())
"""


def delete_parts(folder: Path, holding: int) -> int:
    """Remove the parts that hold exactly block number ``holding``, as a crash can."""
    removed = 0
    for part in folder.glob(f"store/*/*/all_{holding}_{holding}_0"):
        for file in part.iterdir():
            file.unlink()
        part.rmdir()
        removed += 1
    return removed


def test_a_lost_part_comes_back_with_the_replay_of_its_token(tmp_path: Path) -> None:
    first = {"one": [1, 2], "two": [3], "three": [4]}
    assert run(INSERT, tmp_path, json.dumps(first)) == [[1, 2, 3, 4]] * 2
    assert delete_parts(tmp_path, holding=2) == 2
    assert run(INSERT, tmp_path, json.dumps({})) == [[1, 2, 4]] * 2
    assert run(INSERT, tmp_path, json.dumps(first)) == [[1, 2, 3, 4]] * 2


def test_only_the_side_that_was_lost_is_filled_again(tmp_path: Path) -> None:
    first = {"one": [1], "two": [2]}
    run(INSERT, tmp_path, json.dumps(first))
    view = next(
        log.parent.parent
        for log in sorted(tmp_path.glob("store/*/*/deduplication_logs/*.txt"))
        if log.parent.parent.joinpath("all_2_2_0").exists()
    )
    for file in view.joinpath("all_2_2_0").iterdir():
        file.unlink()
    view.joinpath("all_2_2_0").rmdir()
    assert run(INSERT, tmp_path, json.dumps(first)) == [[1, 2]] * 2


def test_what_was_acknowledged_survives_a_kill_and_its_replay_adds_nothing(
    tmp_path: Path,
) -> None:
    endless = """
    async def main():
        engine = await open_embedded(folder)
        for sql in CREATE:
            await engine.execute(Statement(sql=sql))
        for n in range(int(sys.argv[2]), 10**9):
            await engine.insert(block(f"token-{n}", [n]))
            print(n, flush=True)
    asyncio.run(main())
    """
    acknowledged = 0
    for _ in range(3):
        process = start(endless, tmp_path, str(acknowledged))
        assert process.stdout is not None
        for line in process.stdout:
            acknowledged = int(line) + 1
            if acknowledged % 60 == 0:
                process.send_signal(signal.SIGKILL)
                break
        process.communicate(timeout=60)
        replay = {f"token-{n}": [n] for n in range(acknowledged + 1)}
        table, view = run(INSERT, tmp_path, json.dumps(replay))
        assert table == view == list(range(acknowledged + 1))
        acknowledged += 1


def test_a_second_process_is_told_who_owns_the_folder(tmp_path: Path) -> None:
    owner = start(
        """
        async def main():
            engine = await open_embedded(folder)
            print("open", flush=True)
            sys.stdin.read()
            await engine.close()
        asyncio.run(main())
        """,
        tmp_path,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "open\n"
    refused = """
    async def main():
        try:
            await open_embedded(folder)
        except AppError as error:
            print(json.dumps([type(error).__name__, str(error), error.exit_code]))
    asyncio.run(main())
    """
    name, message, exit_code = run(refused, tmp_path)
    assert (name, exit_code) == (DataFolderOwnedError.__name__, 4)
    assert str(owner.pid) in message
    assert str(tmp_path) in message
    owner.send_signal(signal.SIGKILL)
    owner.communicate(timeout=60)
    # The lock goes with its process, however that ended.
    assert run(INSERT, tmp_path, "{}") == [[], []]


def test_a_process_can_end_without_closing_the_engine(tmp_path: Path) -> None:
    script = """
    async def main():
        engine = await open_embedded(folder)
        stream = await engine.stream(
            Statement(sql="SELECT number FROM numbers(1000000000)", format="CSV")
        )
        print(json.dumps("left"), flush=True)
    asyncio.run(main())
    """
    assert run(script, tmp_path) == "left"


def test_closing_ends_what_runs_and_is_harmless_when_repeated(tmp_path: Path) -> None:
    script = """
    async def main():
        engine = await open_embedded(folder)
        endless = Statement(sql="SELECT sum(sipHash64(number)) FROM numbers(1000000000000)")
        tasks = [asyncio.create_task(engine.fetch(endless)) for _ in range(5)]
        await asyncio.wait(tasks, timeout=0.1)
        await engine.close()
        await engine.close()
        ends = [type(e).__name__ for e in await asyncio.gather(*tasks, return_exceptions=True)]
        try:
            await engine.fetch(Statement(sql="SELECT 1"))
        except AppError as error:
            ends.append(type(error).__name__)
        again = await open_embedded(folder.parent / "other")
        print(json.dumps([ends, (await numbers(again, "SELECT 1"))]))
        await again.close()
    asyncio.run(main())
    """
    ends, answer = run(script, tmp_path / "first")
    assert answer == [1]
    assert set(ends[:-1]) <= {"QueryError", "CancelledError"}
    assert ends[-1] == "ClickHouseUnavailableError"


def test_parts_are_forced_to_the_disk_when_asked(tmp_path: Path) -> None:
    script = """
    async def main():
        engine = await open_embedded(folder, fsync=True)
        found = await numbers(engine, "SELECT toUInt8(value) FROM system.merge_tree_settings"
            " WHERE name IN ('fsync_after_insert', 'fsync_part_directory')")
        print(json.dumps(found))
        await engine.close()
    asyncio.run(main())
    """
    assert run(script, tmp_path) == [1, 1]


async def test_one_process_opens_one_engine(engine: EmbeddedClickHouse, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="One process runs one embedded ClickHouse"):
        await open_embedded(tmp_path)
