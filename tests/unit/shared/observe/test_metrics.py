from shared.observe.metrics import METRICS, Metrics


def test_every_listed_metric_is_exposed_with_its_help_and_kind() -> None:
    text = Metrics().exposition().decode()
    for metric in METRICS:
        name = metric.name.removesuffix("_total")
        assert f"# TYPE {metric.name} {metric.kind}" in text, name
        assert metric.help in text
        assert metric.unit


def test_nothing_is_exposed_that_is_not_listed() -> None:
    metrics = Metrics()
    metrics.rows_stored.labels("events").inc()
    metrics.flush_seconds.labels("events").observe(0.1)
    text = metrics.exposition().decode()
    exposed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert exposed == {metric.name for metric in METRICS}


def test_names_say_whose_they_are_and_counters_end_in_total() -> None:
    for metric in METRICS:
        assert metric.name.startswith("pipehouse_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")


def test_two_instances_do_not_share_numbers() -> None:
    counted, untouched = Metrics(), Metrics()
    counted.rows_stored.labels("events").inc(3)
    assert b'pipehouse_rows_stored_total{datasource="events"} 3.0' in counted.exposition()
    assert b'datasource="events"' not in untouched.exposition()
