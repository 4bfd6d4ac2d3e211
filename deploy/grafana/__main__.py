"""`python -m deploy.grafana` writes the dashboards, the alert rules and the scrape configuration for one machine."""

import json
from pathlib import Path
from typing import Any

import yaml

from deploy.grafana.alerts import rules
from deploy.grafana.dashboards import engines, factory

ROOT = Path(__file__).parents[2]
MADE = "made by `python -m deploy.grafana`; change that instead"


def scraping() -> dict[str, Any]:
    """Prometheus beside `factory up` on one machine: every process says in <data>/metrics where it listens."""
    targets = [{"files": ["../data/metrics/*.json"], "refresh_interval": "10s"}]
    return {
        "global": {"scrape_interval": "15s"},
        "rule_files": ["../deploy/grafana/alerts.yaml"],
        "scrape_configs": [{"job_name": "factory", "file_sd_configs": targets}],
    }


def files() -> dict[Path, str]:
    """What is written where."""
    return {
        ROOT / "deploy" / "grafana" / "factory.json": _json(factory()),
        ROOT / "deploy" / "grafana" / "engines.json": _json(engines()),
        ROOT / "deploy" / "grafana" / "alerts.yaml": _yaml(f"Alert rules, {MADE}.", rules()),
        ROOT / "examples" / "prometheus.yaml": _yaml(
            f"Prometheus beside `factory up --data data`: prometheus --config.file=examples/prometheus.yaml; {MADE}.",
            scraping(),
        ),
    }


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _yaml(head: str, content: dict[str, Any]) -> str:
    return f"# {head}\n" + yaml.safe_dump(content, sort_keys=False, width=200, allow_unicode=True)


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, "utf-8")
        print(path)
