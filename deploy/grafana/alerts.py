"""The alert rules: what an operator should hear of without looking.

A factory that waits on purpose (back-pressure, RL before the handover) raises none of them. One that was ended raises
FactoryStageGone for an hour.
"""

from typing import Any, Literal

from deploy.grafana import queries as q

BACKLOG = 2048
"""Four times broker.ahead, at which whoever makes the messages pauses: something does not pause."""
STALLED: dict[str, str] = {stage: "1h" if stage == "evaluate" else "30m" for stage in q.QUEUED}
"""For how long no record may be done while work waits: above search.timeout_s, and above an evaluation."""
BEHIND = 8
"""Versions; rl.max_lag is 4."""
FEW = 5
"""Fewer errors are no share: the one version that was refused is all that `evaluate` did in its 15 minutes."""

Rule = dict[str, Any]


def rule(
    name: str, expr: str, wait: str, severity: Literal["warning", "critical"], says: str, do: str, stage: str = ""
) -> Rule:
    """One rule.

    Args:
        name: of the alert.
        expr: PromQL; the alert is raised while it gives something.
        wait: for how long it has to, at least.
        severity: critical = work stands or is lost until somebody comes.
        says: what is wrong, in a sentence.
        do: where to look.
        stage: whose it is.
    """
    labels = {"severity": severity} | ({"stage": stage} if stage else {})
    return {"alert": name, "expr": expr, "for": wait, "labels": labels, "annotations": {"summary": says, "action": do}}


def rules() -> Rule:
    """The file for Prometheus' rule_files."""
    stages = [
        made
        for stage in q.FLOW
        for made in (_errors(stage), _mostly_errors(stage), _restarting(stage), _gone(stage), *_queue(stage))
    ]
    return {
        "groups": [
            {"name": "factory", "rules": [_down(), _behind(), *stages]},
            {"name": "engines", "rules": _engines()},
        ]
    }


def _down() -> Rule:
    return rule(
        "FactoryProcessDown", 'up{job="factory"} == 0', "2m", "critical",
        "{{ $labels.instance }} does not answer", "its log, <data>/logs/ under `factory up`",
    )  # fmt: skip


def _behind() -> Rule:
    newest, used, done = (
        q.highest("rl", "weights_version"), q.metric("sample", "weights_version"), q.metric("sample", "records"),
    )  # fmt: skip
    # A sampler without a partition or prompts keeps the version it began with, and harms nobody.
    working = f"min({used} and increase({done}[10m]) > 0)"
    return rule(
        "FactoryWeightsBehind", f"{newest} - {working} > {BEHIND}", "10m", "warning",
        "a sampler works with weights {{ $value }} versions behind RL's: its rollouts are too stale to train on",
        "whether it may read the weights' directory (policy.weights_dirs), and its log", "sample",
    )  # fmt: skip


def _errors(stage: str) -> Rule:
    count = q.metric(stage, "errors")
    # What a process counted before its first scrape is no increase to Prometheus.
    at_first = f"sum({count} unless {count} offset 15m) > 0"
    return rule(
        "FactoryErrors", f"sum(increase({count}[15m])) > 0 or {at_first}", "0m", "warning",
        f"{stage}: {{{{ $value | humanize }}}} errors in 15 minutes", _letters(stage), stage,
    )  # fmt: skip


def _mostly_errors(stage: str) -> Rule:
    bad, all_ = (q.rate(stage, name, "15m") for name in ("errors", "records"))
    enough = f"sum(increase({q.metric(stage, 'errors')}[15m])) >= {FEW}"
    return rule(
        "FactoryMostlyErrors", f"{enough} and {bad} > 0.2 * {all_}", "5m", "critical",
        f"{stage}: more than one input in five fails", _letters(stage), stage,
    )  # fmt: skip


def _letters(stage: str) -> str:
    return f"factory dlq list --where \"stage = '{stage}'\""


def _restarting(stage: str) -> Rule:
    return rule(
        "FactoryRestarting", f"changes({q.highest(stage, 'start_time_seconds')}[15m:30s]) > 3", "0m", "critical",
        f"{stage} was started {{{{ $value }}}} times in 15 minutes", f"the last lines of the log of {stage}", stage,
    )  # fmt: skip


def _gone(stage: str) -> Rule:
    count = q.metric(stage, "records")
    return rule(
        "FactoryStageGone", f"absent({count}) and on() present_over_time({count}[1h])", "5m", "critical",
        f"{stage}: no process of it is there any more", f"whether it was ended on purpose; the log of {stage}", stage,
    )  # fmt: skip


def _queue(stage: str) -> list[Rule]:
    if stage not in q.QUEUED:
        return []
    lag, over = q.highest(stage, "lag"), STALLED[stage]
    # `for` and not a window over the lag: a process that was just started has no past in which it did nothing.
    waits = f"{lag} > 0 and sum(increase({q.metric(stage, 'records')}[{over}])) == 0"
    found = [
        rule(
            "FactoryStalled", waits, over, "critical",
            f"{stage}: work waits and none was done for {over}", "its log; what it waits for (factory top)", stage,
        )
    ]  # fmt: skip
    if stage in q.GROUPS:
        found.append(
            rule(
                "FactoryBacklog", f"{lag} > {BACKLOG}", "15m", "warning",
                f"{stage}: {{{{ $value }}}} messages wait", f"start more of it: factory {stage} --broker ...", stage,
            )
        )  # fmt: skip
    return found


def _engines() -> list[Rule]:
    return [
        rule(
            "EngineCacheFull", "min_over_time(vllm:kv_cache_usage_perc[10m]) > 0.95", "0m", "warning",
            "the engine of {{ $labels.instance }} has had no room for keys and values for ten minutes",
            "engine.kv_cache_gb (CPU), engine.args.gpu_memory_utilization (GPU), or fewer trees in flight",
        ),
        rule(
            "EnginePreempts", "rate(vllm:num_preemptions_total[10m]) > 0.1", "10m", "warning",
            "the engine of {{ $labels.instance }} throws away work for want of room",
            "as EngineCacheFull; engine.max_num_seqs",
        ),
    ]  # fmt: skip
