"""The two dashboards: the factory from the problems to the weights, and its engines as vLLM sees them."""

from typing import Any

from deploy.grafana import queries as q

WIDTH = 24
"""Columns of Grafana's grid."""
HEIGHT = 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


def plot(title: str, lines: dict[str, str], unit: str = "short", what: str = "", *, signed: bool = False) -> Json:
    """A plot over time.

    Args:
        title: stands above it.
        lines: PromQL by legend; a legend may name labels: '{{instance}}'.
        unit: Grafana's name of the unit: short, s, ops, bytes, percentunit, ...
        what: the text behind the (i).
        signed: values may be below zero; else the axis begins there.
    """
    targets = [
        {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
        for at, (legend, expr) in enumerate(lines.items())
    ]
    return {
        "type": "timeseries",
        "title": title,
        "description": what,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {
            "defaults": {"unit": unit}
            | ({} if signed else {"min": 0})
            | {"custom": {"fillOpacity": 5, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "table", "placement": "right", "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def number(title: str, expr: str, unit: str = "short", what: str = "") -> Json:
    """The last value, large."""
    made = plot(title, {"": expr}, unit, what)
    reduced = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "area"}
    return made | {"type": "stat", "options": reduced}


def dashboard(uid: str, title: str, rows: list[tuple[str, list[list[Json]]]]) -> Json:
    """A dashboard of titled rows; each has lines of panels that share the width."""
    panels: list[Json] = []
    at = 0
    for heading, lines in rows:
        panels.append(
            {"type": "row", "title": heading, "collapsed": False, "panels": [], "gridPos": _place(0, at, WIDTH, 1)}
        )
        at += 1
        for line in lines:
            height = HEIGHT // 2 if all(panel["type"] == "stat" for panel in line) else HEIGHT
            width = WIDTH // len(line)
            panels += [panel | {"gridPos": _place(n * width, at, width, height)} for n, panel in enumerate(line)]
            at += height
    return {
        "uid": uid,
        "title": title,
        "tags": ["astro-factory"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [panel | {"id": at} for at, panel in enumerate(panels, 1)],
    }


def _place(x: int, y: int, w: int, h: int) -> Json:
    return {"x": x, "y": y, "w": w, "h": h}


def factory() -> Json:
    """Flow, learning, processes."""
    return dashboard(
        "astro-factory", "astro-factory", [("Flow", _flow()), ("Learning", _learning()), ("Processes", _processes())]
    )


def _flow() -> list[list[Json]]:
    tokens = " + ".join(f"({q.rate(stage, 'tokens')} or vector(0))" for stage in q.ENGINES)
    errors = " + ".join(f"(sum(increase({q.metric(stage, 'errors')}[1h])) or vector(0))" for stage in q.FLOW)
    stages = {
        "records": {stage: q.rate(stage, "records") for stage in q.FLOW},
        "lag": {stage: q.highest(stage, "lag") for stage in q.QUEUED},
        "in_flight": {stage: q.total(stage, "in_flight") for stage in q.FLOW},
        "errors": {stage: q.rate(stage, "errors") for stage in q.FLOW},
        "half": {stage: q.duration(stage, 0.5) for stage in q.FLOW},
        "most": {stage: q.duration(stage, 0.95) for stage in q.FLOW},
    }
    return [
        [
            number("Processes that answer", 'sum(up{job="factory"})'),
            number("Processes that do not", 'count(up{job="factory"} == 0) or vector(0)'),
            number("Tokens a second", tokens, what="Sampled by every engine."),
            number("Errors in the last hour", errors, what="Dead letters and other failures: factory dlq list"),
        ],
        [
            plot("Records a second", stages["records"], "ops", "sft, rl: steps; evaluate: versions"),
            plot("Lag", stages["lag"], what="Messages that wait for the stage; evaluate: versions"),
        ],
        [plot("In hand", stages["in_flight"]), plot("Errors a second", stages["errors"], "ops")],
        [
            plot("Time in hand, half of them", stages["half"], "s", "sink: a commit; sft, rl: a step"),
            plot("Time in hand, 95 of 100", stages["most"], "s"),
        ],
    ]  # fmt: skip


def _learning() -> list[list[Json]]:
    steps = {stage: f"60 * {q.rate(stage, 'records')}" for stage in q.TRAINERS}
    return [
        [
            plot("Weights in use", {s: q.highest(s, "weights_version") for s in q.WITH_WEIGHTS}, what="Newest version"),
            plot("pass@1 of the last version evaluated", {"pass@1": q.highest("evaluate", "pass_at_1")}, "percentunit"),
        ],
        [
            plot("Loss", {stage: q.highest(stage, "loss") for stage in q.TRAINERS}, signed=True),
            plot("Steps a minute", steps),
        ],
    ]


def _processes() -> list[list[Json]]:
    of = "{{stages}} {{instance}}"
    return [
        [
            plot(
                "Processor",
                {of: f'rate(process_cpu_seconds_total{{job="factory"}}[{q.RATE}])'},
                "percentunit",
                "1 = a core",
            ),
            plot("Memory", {of: 'process_resident_memory_bytes{job="factory"}'}, "bytes"),
        ]
    ]


def engines() -> Json:
    """The metrics of vLLM itself, of the engines in our processes and of every `vllm serve` that is scraped."""
    hit = f"sum(rate(vllm:prefix_cache_hits_total[{q.RATE}])) / sum(rate(vllm:prefix_cache_queries_total[{q.RATE}]))"
    latency = {
        f"{100 * share:g} of 100": f"histogram_quantile({share}, sum by (le) "
        f"(rate(vllm:e2e_request_latency_seconds_bucket[{q.RATE}])))"
        for share in (0.5, 0.95)
    }
    queued = f"histogram_quantile(0.95, sum by (le) (rate(vllm:request_queue_time_seconds_bucket[{q.RATE}])))"
    lines = [
        [
            plot(
                "Tokens a second",
                {
                    "sampled": f"sum(rate(vllm:generation_tokens_total[{q.RATE}]))",
                    "read": f"sum(rate(vllm:prompt_tokens_total[{q.RATE}]))",
                },
            ),
            plot(
                "Requests",
                {
                    "running {{instance}}": "vllm:num_requests_running",
                    "waiting {{instance}}": "vllm:num_requests_waiting",
                },
            ),
        ],
        [
            plot("Cache in use", {"{{instance}}": "vllm:kv_cache_usage_perc"}, "percentunit", "Of keys and values"),
            plot("Prefix cache hits", {"hits": hit}, "percentunit", "Share of the prompt tokens that were there"),
        ],
        [
            plot("Time of a request", latency | {"waiting, 95 of 100": queued}, "s"),
            plot("Preemptions a second", {"{{instance}}": f"rate(vllm:num_preemptions_total[{q.RATE}])"}, "ops"),
        ],
    ]
    return dashboard("astro-factory-engines", "astro-factory: engines", [("vLLM", lines)])
