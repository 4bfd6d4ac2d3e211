"""What deploy/grafana/ asks Prometheus for: the expressions in its files and the metric names in them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
BY_PROMETHEUS = {"up"}
"""What Prometheus itself adds to every target."""


def parsed(expr: str) -> Any:
    return promql_parser.parse(expr.replace("$__rate_interval", "1m"))


def names(expr: str) -> set[str]:
    """The metric names in a PromQL expression."""
    found: set[str] = set()

    def look(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name, f"a selector without a name: {expr}"
            found.add(node.name)

    promql_parser.walk(parsed(expr), look)
    assert found, expr
    return found


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every panel with its file's name."""
    for name in ("factory.json", "engines.json"):
        for panel in json.loads((FOLDER / name).read_text("utf-8"))["panels"]:
            yield name, panel


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    """Every expression of the dashboards and the alerts."""
    found = [target["expr"] for _, panel in panels() for target in panel.get("targets", [])]
    return [*found, *(rule["expr"] for rule in alerts())]


def used() -> set[str]:
    """Every metric name in them."""
    return {name for expr in expressions() for name in names(expr)}
