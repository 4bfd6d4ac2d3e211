"""Grafana's dashboards and Prometheus' alert rules, made from one source: `python -m deploy.grafana` writes them."""
