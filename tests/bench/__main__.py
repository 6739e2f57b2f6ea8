"""``make bench``: every measurement, or those named; each against a baseline in the same run."""

from __future__ import annotations

import argparse
import time

from tests.bench import (
    bench_answers,
    bench_decode,
    bench_endpoint,
    bench_events,
    bench_kafka,
    bench_pipeline,
    bench_server,
    bench_template,
)

BENCHES = {
    "decode": bench_decode.main,
    "pipeline": bench_pipeline.main,
    "events": bench_events.main,
    "kafka": bench_kafka.main,
    "endpoint": bench_endpoint.main,
    "server": bench_server.main,
    "answers": bench_answers.main,
    "template": bench_template.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of {', '.join(BENCHES)}")
    names = parser.parse_args().names or list(BENCHES)
    if unknown := set(names) - set(BENCHES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(BENCHES)}")
    for name in names:
        started_s = time.monotonic()
        BENCHES[name]()
        print(f"({name}: {time.monotonic() - started_s:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
