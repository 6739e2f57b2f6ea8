"""The dashboards and alerts name metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from shared.observe.metrics import METRICS

DEPLOY = Path(__file__).parents[3] / "deploy"
NAME = re.compile(r"\bpipehouse_[a-z_]+")


def scraped() -> set[str]:
    names = {metric.name for metric in METRICS}
    for metric in METRICS:
        if metric.kind == "histogram":
            names |= {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def alert_rules() -> list[dict[str, object]]:
    found = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    return [rule for group in found["groups"] for rule in group["rules"]]


def test_every_alert_asks_for_metrics_that_exist_and_says_what_to_do() -> None:
    rules = alert_rules()
    assert rules
    for rule in rules:
        used = set(NAME.findall(str(rule["expr"])))
        assert used <= scraped(), rule["alert"]
        annotations = rule["annotations"]
        assert isinstance(annotations, dict)
        assert {"summary", "action"} == set(annotations), rule["alert"]


def test_every_panel_asks_for_metrics_that_exist() -> None:
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "pipehouse.json").read_text())
    expressions = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    assert expressions
    for expression in expressions:
        used = set(NAME.findall(expression))
        assert used, expression
        assert used <= scraped(), expression


def test_a_metric_that_does_not_exist_would_be_found() -> None:
    assert not set(NAME.findall("rate(pipehouse_rows_sored_total[5m])")) <= scraped()
