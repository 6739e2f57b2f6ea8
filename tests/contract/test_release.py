"""Releases on the real engine: what is broken stays as it was, the rest goes on."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

import pytest

from deploy.engine import Engine
from deploy.release import Released, Releaser
from query.serving import Serving
from shared.clickhouse.contract import Statement
from shared.clock import Deadline, SystemClock
from shared.datafile.project import load_project, parse_project
from shared.errors import ClickHouseUnavailableError
from shared.model.resources import Datasource


@pytest.fixture
def engine(each_engine: Engine) -> Engine:
    return each_engine


class RecordingWorker:
    """Pauses and starts nothing, and remembers what it was asked."""

    def __init__(self, restless: Iterable[str] = ()) -> None:
        self.restless = set(restless)
        self.paused: list[str] = []
        self.started: set[str] = set()

    async def pause(self, names: Iterable[str], deadline: Deadline) -> bool:
        self.paused += names
        self.started -= set(self.paused)
        return self.restless.isdisjoint(self.paused[-1:])

    def start(self, datasources: Mapping[str, Datasource]) -> None:
        self.started |= datasources.keys()


class Project:
    """Two data sources, a view from one into the other, an endpoint; names of their own."""

    def __init__(self, engine: Engine, *, restless: bool = False) -> None:
        self.ev = "ev" + uuid.uuid4().hex[:8]
        self.worker = RecordingWorker([self.ev] if restless else [])
        self.serving = Serving(engine.parse, engine.database)
        self.releaser = Releaser(engine, self.serving, self.worker, SystemClock())  # type: ignore[arg-type]
        self.files = {
            f"{self.ev}.datasource": "SCHEMA >\n    n UInt32 `json:$.n`\n",
            f"{self.ev}_sums.datasource": "SCHEMA >\n    total UInt64\n",
            f"{self.ev}_view.pipe": "NODE a\nSQL >\n"
            f"    SELECT toUInt64(sum(n)) AS total FROM {self.ev}\n"
            f"TYPE materialized\nDATASOURCE {self.ev}_sums\n",
            f"{self.ev}_count.pipe": "NODE a\nSQL >\n"
            f"    SELECT count() AS c FROM {self.ev}\nTYPE endpoint\n",
        }

    async def release(self, **changes: str) -> Released:
        """Release with some files changed; their names without the common beginning."""
        self.files |= {f"{self.ev}{n.replace('__', '.')}": text for n, text in changes.items()}
        return await self.releaser.release(parse_project(list(self.files.items())))


async def test_a_release_serves_everything_and_a_second_one_changes_nothing(
    engine: Engine,
) -> None:
    project = Project(engine)
    released = await project.release()
    assert released.is_clean and len(released.plan.steps) == 5
    assert project.worker.started == {project.ev, f"{project.ev}_sums"}
    assert project.serving.endpoint(f"{project.ev}_count")
    assert released.reads[f"{project.ev}_count"] == (project.ev,)
    again = await project.release()
    assert again.is_clean and again.plan.steps == ()


async def test_what_lies_in_a_folder_that_cannot_be_read_stays_as_it_was(
    engine: Engine, tmp_path: Path
) -> None:
    project = Project(engine)
    await project.release()
    before = project.serving.workspace
    released = await project.releaser.release(load_project([tmp_path / "gone"], {}))
    assert [d.code for d in released.diagnostics] == ["unreadable_folder"]
    assert released.plan.steps == ()
    assert before.pipes.items() <= project.serving.workspace.pipes.items()
    assert before.datasources.keys() <= project.serving.workspace.datasources.keys()
    assert project.serving.endpoint(f"{project.ev}_count")


async def test_a_problem_has_one_place_that_of_the_file(engine: Engine) -> None:
    project = Project(engine)
    released = await project.release(
        _tag__pipe="NODE a\nSQL >\n    %\n    SELECT {{nofunction(x)}}\nTYPE endpoint\n",
        _sql__pipe="NODE a\nSQL >\n    SELECT 1\n    FORM (\nTYPE endpoint\n",
    )
    assert {d.span.line for d in released.diagnostics} == {4}
    assert not [d.message for d in released.diagnostics if "line " in d.message]


async def test_a_broken_pipe_keeps_its_last_good_version_and_the_others_change(
    engine: Engine,
) -> None:
    project = Project(engine)
    await project.release()
    before = project.serving.workspace.pipes[f"{project.ev}_count"]
    released = await project.release(
        _count__pipe=f"NODE a\nSQL >\n    SELECT nn FROM {project.ev}\nTYPE endpoint\n",
        _new__pipe="NODE a\nSQL >\n    SELECT 1 AS one\nTYPE endpoint\n",
    )
    (problem,) = released.diagnostics
    assert (problem.span.line, problem.span.column) == (3, 12)
    assert "nn" in problem.message and problem.excerpt[-1].strip().startswith("SELECT nn")
    assert project.serving.workspace.pipes[f"{project.ev}_count"] == before
    assert project.serving.endpoint(f"{project.ev}_new")


async def test_a_pipe_whose_secret_is_missing_keeps_its_last_good_version_and_its_secrets(
    engine: Engine,
) -> None:
    project = Project(engine)
    files = list(project.files.items())
    endpoint = "NODE a\nSQL >\n    %\n    SELECT {{{{tb_secret('{}')}}}} AS s\nTYPE endpoint\n"
    name = f"{project.ev}_keyed"
    old = (f"{name}.pipe", endpoint.format("OLD"))
    released = await project.releaser.release(parse_project([*files, old], {"OLD": "word"}))
    assert released.is_clean
    for path, text in (old, (f"{name}.pipe", endpoint.format("NEW"))):
        released = await project.releaser.release(parse_project([*files, (path, text)], {}))
        (problem,) = released.diagnostics
        assert (problem.code, problem.span.line, problem.span.column) == ("missing_secret", 4, 14)
        assert released.workspace.secrets == {"OLD": "word"}
        assert "OLD" in project.serving.endpoint(name)[1].sql


async def test_a_pipe_that_is_longer_than_the_engine_takes_is_a_problem_of_its_file(
    engine: Engine,
) -> None:
    project = Project(engine)
    sql = f"SELECT 1 IN ({'1,' * 140_000}1) AS a"
    released = await project.release(_long__pipe=f"NODE a\nSQL >\n    {sql}\nTYPE endpoint\n")
    assert [(d.code, d.span.line) for d in released.diagnostics] == [("too_large", 3)]


@pytest.mark.parametrize(
    ("sql", "column", "call"),
    [
        ("SELECT 1 AS {{symbol(a)}} FROM {{table(t)}}", 38, "table(t"),
        ("SELECT {{column(c)}} FROM EV", 14, "column(c"),
    ],
)
async def test_a_name_without_a_default_is_one_problem_that_says_what_to_write(
    engine: Engine, sql: str, column: int, call: str
) -> None:
    project = Project(engine)
    sql = sql.replace("EV", project.ev)
    released = await project.release(
        _named__pipe=f"NODE a\nSQL >\n    %\n    {sql}\nNODE b\nSQL >\n    SELECT * FROM a\n",
    )
    (problem,) = released.diagnostics
    assert (problem.span.line, problem.span.column) == (4, column)
    assert problem.message.startswith(f"{call}) has no default")
    assert problem.hint == f"Give it one that exists: {{{{{call}, 'name')}}}}."


async def test_a_refused_data_source_keeps_its_last_good_version(
    engine: Engine,
) -> None:
    project = Project(engine)
    await project.release()
    released = await project.release(__datasource="SCHEMA >\n    n String `json:$.n`\n")
    assert [d.code for d in released.diagnostics] == ["data_loss_refused"]
    assert project.serving.workspace.datasources[project.ev].columns[0].type == "UInt32"
    assert project.ev in project.worker.started


BAD_PARTS = """SCHEMA >
    `id` Int64,
    `ts` DateTime,
    `a` Int64 DEFAULT foo(id),
    `é` Int64 DEFAULT id + + * 2, `b` Int64 DEFAULT 'x',
    `c` String CODEC(ZSTDX(1)),
    `good` UInt8 DEFAULT 1 CODEC(ZSTD(3))

ENGINE "MergeTree"
ENGINE_SORTING_KEY "id("
ENGINE_PRIMARY_KEY "nothing -> 1"
ENGINE_PARTITION_KEY "toYYYYMM(nope(ts))"
ENGINE_TTL "ts + INTERVAL 3 FOO"
ENGINE_SETTINGS "index_gran=4"

INDEXES >
    INDEX i foo(id) TYPE minmax GRANULARITY 1
    INDEX k id TYPE minmax GRANULARITY 1
    INDEX j id TYPE set(a) GRANULARITY 1
"""
MISTAKES = [
    (4, 23, "DEFAULT of 'a'"),
    (5, 32, "DEFAULT of 'é'"),
    (5, 54, "DEFAULT of 'b'"),
    (6, 5, "CODEC of 'c'"),
    (10, 21, "ENGINE_SORTING_KEY"),
    (11, 21, "ENGINE_PRIMARY_KEY"),
    (12, 32, "ENGINE_PARTITION_KEY"),
    (13, 13, "ENGINE_TTL"),
    (14, 18, "ENGINE_SETTINGS"),
    (17, 13, "INDEX 'i'"),
    (19, 13, "INDEX 'j'"),
]


async def test_every_bad_sql_part_of_a_data_source_is_told_at_its_place(engine: Engine) -> None:
    project = Project(engine)
    released = await project.release(_bad__datasource=BAD_PARTS)
    problems = released.diagnostics
    found = [(d.span.line, d.span.column, d.message.partition(":")[0]) for d in problems]
    assert found == MISTAKES
    told = " ".join(f"{d.message} {d.hint}" for d in problems)
    for ours in ("__trial", "pipehouse", "non_replicated", "CREATE", "position", "line "):
        assert ours not in told
    left = await engine.fetch(
        Statement(sql="SELECT name FROM system.tables WHERE startsWith(name, '__trial')")
    )
    assert left.body == b""
    assert f"{project.ev}_bad" not in project.serving.workspace.datasources


@pytest.mark.parametrize("part", ["Int64 DEFAULT foo(1)", "Int65"])
async def test_a_pipe_that_reads_a_broken_data_source_is_told_why(
    engine: Engine, part: str
) -> None:
    project = Project(engine)
    released = await project.release(
        _bad__datasource=f"SCHEMA >\n    a {part}\n",
        _reads__pipe=f"NODE a\nSQL >\n    SELECT a FROM {project.ev}_bad\nTYPE endpoint\n",
    )
    hints = {PurePath(d.span.path).suffix: d.hint for d in released.diagnostics}
    assert hints[".pipe"] == f"The file of '{project.ev}_bad' has mistakes itself."


async def test_keys_that_do_not_fit_each_other_are_told_at_the_one_that_is_wrong(
    engine: Engine,
) -> None:
    schema = "SCHEMA >\n    a Int64,\n    b Nullable(Int64),\n    s String\n\n"
    nullable = 'ENGINE_SETTINGS "allow_nullable_key=1"\n'
    keys = 'ENGINE_SORTING_KEY "a, b"\nENGINE_PRIMARY_KEY "b"\nENGINE_SAMPLING_KEY "s"\n'
    released = await Project(engine).release(_bad__datasource=schema + nullable + keys)
    assert [d.span.line for d in released.diagnostics] == [8, 9]


async def test_a_bad_default_of_a_table_that_is_there_is_told_at_its_place(
    engine: Engine,
) -> None:
    project = Project(engine)
    await project.release()
    released = await project.release(
        __datasource="SCHEMA >\n    n UInt32 `json:$.n` DEFAULT foo(2),\n    m UInt8 DEFAULT mm\n"
    )
    found = [(d.span.line, d.span.column) for d in released.diagnostics]
    assert found == [(2, 33), (3, 21)]
    assert [c.name for c in project.serving.workspace.datasources[project.ev].columns] == ["n"]


async def test_a_changed_view_waits_until_its_source_rests(engine: Engine) -> None:
    project = Project(engine)
    await project.release()
    project.worker.paused.clear()
    view = project.files[f"{project.ev}_view.pipe"].replace("sum(n)", "sum(n * 2)")
    released = await project.release(_view__pipe=view)
    assert released.is_clean
    assert set(project.worker.paused) == {project.ev}
    assert project.ev in project.worker.started


async def test_what_does_not_rest_is_left_as_it_was_and_the_rest_changes(
    engine: Engine,
) -> None:
    project = Project(engine)
    await project.release()
    project.worker.restless = {project.ev}
    released = await project.release(
        __datasource="SCHEMA >\n    n UInt32 `json:$.n`,\n    m UInt8 `json:$.m`\n",
        _sums__datasource="SCHEMA >\n    total UInt64,\n    more UInt8 DEFAULT 1\n",
    )
    assert ["does not end" in d.message for d in released.diagnostics] == [True]
    datasources = project.serving.workspace.datasources
    assert [c.name for c in datasources[project.ev].columns] == ["n"]
    assert [c.name for c in datasources[f"{project.ev}_sums"].columns] == ["total", "more"]
    assert project.ev in project.worker.started


async def test_whatever_happens_what_was_paused_goes_on(engine: Engine) -> None:
    project = Project(engine)
    await project.release()

    class Failing:
        """The engine until it is asked for a change."""

        def __getattr__(self, name: str) -> object:
            return getattr(engine, name)

        async def execute(self, statement: Statement) -> None:
            raise ClickHouseUnavailableError("gone")

    project.releaser._clickhouse = Failing()  # type: ignore[assignment]
    wider = "SCHEMA >\n    n UInt32 `json:$.n`,\n    m UInt8 `json:$.m`\n"
    with pytest.raises(ClickHouseUnavailableError):
        await project.release(__datasource=wider)
    assert project.ev in project.worker.paused and project.ev in project.worker.started
