"""docs/reference/metrics.md: the numbers that processes serve to Prometheus, and the alerts made of them."""

from deploy.grafana.alerts import rules
from deploy.reference.docstrings import code, prose, table
from deploy.stages import STAGES
from processors.metrics import DURATION, NUMBERS
from processors.status import BOUNDS_S

HEAD = """# Metrics

Every process serves its numbers at `http://HOST:PORT/metrics` in Prometheus' form, beside those of vLLM and of Python
themselves; [how to look at them](../how-to.md#watch-it). STAGE below is one of: {stages}.
A number that a stage does not have is not told. Settings: [metrics](settings.md#metrics).
"""


def page() -> list[str]:
    """The lines of the page."""
    numbers = [
        [code(f"factory_STAGE_{one.name}" + "_total" * (one.kind == "counter")), one.kind, prose(one.means)]
        for one in NUMBERS
    ]
    numbers.append([code("factory_STAGE_duration_seconds"), "histogram", prose(DURATION)])
    alerts = [rule for group in rules()["groups"] for rule in group["rules"]]
    firsts = {rule["alert"]: rule for rule in reversed(alerts)}
    counts = {name: sum(rule["alert"] == name for rule in alerts) for name in firsts}
    rows = [
        [code(name), rule["labels"]["severity"], rule["for"], str(counts[name]), prose(rule["annotations"]["action"])]
        for name, rule in reversed(firsts.items())
    ]
    return [
        *HEAD.format(stages=", ".join(f"`{stage}`" for stage in STAGES)).splitlines(),
        "",
        *table(["metric", "kind", "meaning"], numbers),
        f"The histogram counts up to {', '.join(f'{bound:g}' for bound in BOUNDS_S)} s.",
        "",
        "## Alerts",
        "",
        "The rules are `deploy/grafana/alerts.yaml`. Some have a rule for each stage; the advice here is the first's.",
        "",
        *table(["alert", "severity", "after", "rules", "what to do"], rows),
    ]
