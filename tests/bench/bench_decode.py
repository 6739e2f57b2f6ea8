"""Rows a second through the decoder, against decoding the same records into dicts.

Both sides keep their results alive. The decoder's are ready to insert and its dates are checked;
the dicts are neither. Rounds alternate, so that a change of the machine's pace hits both sides.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import msgspec

from ingest.chunk import Chunk, Partition
from ingest.decode import Decoder
from shared.model.resources import Column, Datasource

ROWS = 50_000
ROUNDS = 9
Case = tuple[str, Datasource, list[bytes]]


def _datasource(name: str, *columns: tuple[str, str, str]) -> Datasource:
    return Datasource(
        name=name,
        columns=tuple(Column(name=n, type=t, jsonpath=path) for n, t, path in columns),
    )


def _text(rng: random.Random) -> str:
    day, second = rng.randint(1, 28), rng.randint(0, 86_399)
    return f"2025-05-{day:02d} {second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"


def clickstream(rows: int) -> Case:
    """Eleven columns, ten of them text, one a DateTime."""
    rng = random.Random(7)
    names = "event_id user_id session_id event_type page_url page_title referrer"
    texts = [*names.split(), "device_type", "browser", "properties"]
    columns = [(name, "String", f"$.{name}") for name in texts]
    columns.insert(7, ("timestamp", "DateTime", "$.timestamp"))
    values = [
        msgspec.json.encode(
            {
                "event_id": f"ev_{rng.randint(0, 10**9)}",
                "user_id": f"user_{rng.randint(0, 10**5)}",
                "session_id": f"sess_{rng.randint(0, 10**6)}",
                "event_type": rng.choice(["page_view", "click", "scroll"]),
                "page_url": f"https://example.com/{rng.choice(['contact', 'about'])}",
                "page_title": "Contact Page",
                "referrer": "https://google.com",
                "timestamp": _text(rng),
                "device_type": rng.choice(["desktop", "mobile"]),
                "browser": "Safari",
                "properties": '{"browser_version":"13.0", "screen_size":"1766x1010", "lang":"en"}',
            }
        )
        for _ in range(rows)
    ]
    return "clickstream", _datasource("clickstream", *columns), values


def numeric(rows: int) -> Case:
    """Eleven columns, nine of them numbers."""
    rng = random.Random(8)
    types = [
        "UInt64",
        "Int32",
        "UInt8",
        "Int64",
        "Float64",
        "Float64",
        "Float32",
        "Int16",
        "UInt32",
    ]
    columns = [(f"n{i}", t, f"$.n{i}") for i, t in enumerate(types)]
    columns += [("at", "DateTime64(3)", "$.at"), ("flag", "Bool", "$.flag")]
    values = [
        msgspec.json.encode(
            {
                **{f"n{i}": rng.randint(0, 127) for i in (2, 7)},
                **{f"n{i}": rng.randint(0, 2**31 - 1) for i in (0, 1, 3, 8)},
                **{f"n{i}": rng.random() * 1000 for i in (4, 5, 6)},
                "at": f"{_text(rng)}.{rng.randint(0, 999):03d}",
                "flag": rng.random() < 0.5,
            }
        )
        for _ in range(rows)
    ]
    return "numeric", _datasource("numeric", *columns), values


def nested(rows: int) -> Case:
    """Eight columns, six of them inside objects, one array, an ISO date with Z."""
    rng = random.Random(9)
    columns = [
        ("id", "String", "$.id"),
        ("at", "DateTime64(3)", "$.at"),
        ("user_id", "UInt64", "$.user.id"),
        ("country", "LowCardinality(String)", "$.user.address.country"),
        ("city", "Nullable(String)", "$.user.address.city"),
        ("os", "LowCardinality(String)", "$.device.os"),
        ("width", "UInt16", "$.device.screen.width"),
        ("tags", "Array(String)", "$.tags[:]"),
    ]
    values = [
        msgspec.json.encode(
            {
                "id": f"ev_{rng.randint(0, 10**9)}",
                "at": f"{_text(rng)}.{rng.randint(0, 999):03d}Z".replace(" ", "T"),
                "user": {
                    "id": rng.randint(0, 10**12),
                    "name": "somebody",
                    "address": {"country": "ES", "city": rng.choice(["Madrid", None])},
                },
                "device": {"os": "linux", "screen": {"width": 1766, "height": 1010}},
                "tags": ["a", "b", "c"],
            }
        )
        for _ in range(rows)
    ]
    return "nested", _datasource("nested", *columns), values


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    kept = work()
    elapsed = time.process_time() - start
    del kept
    return elapsed


def _measure(case: Case, rounds: int) -> dict[str, float]:
    _, datasource, values = case
    decoder = Decoder(datasource)
    chunk = Chunk(
        partition=Partition("t", 0),
        offsets=range(len(values)),
        values=values,
        timestamps_ms=[0] * len(values),
        next=len(values),
    )
    decode = msgspec.json.decode
    dicts, ours = [], []
    for _ in range(rounds):
        dicts.append(_seconds(lambda: [decode(value) for value in values]))
        ours.append(_seconds(lambda: decoder.decode(chunk)))
    scale = 1e6 / len(values)
    dict_us, our_us = statistics.median(dicts) * scale, statistics.median(ours) * scale
    return {
        "dict_us_per_row": round(dict_us, 3),
        "decoder_us_per_row": round(our_us, 3),
        "ratio": round(dict_us / our_us, 2),
    }


def run(rows: int = ROWS, rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Medians in microseconds of CPU a row, and how many times faster the decoder is."""
    cases = (clickstream(rows), numeric(rows), nested(rows))
    return {case[0]: _measure(case, rounds) for case in cases}


def main() -> None:
    """Print the figures."""
    for name, figures in run().items():
        shown = "  ".join(f"{key}={value}" for key, value in figures.items())
        print(f"decode {name}: {shown}")


if __name__ == "__main__":
    main()
