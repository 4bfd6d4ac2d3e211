"""deploy/kubernetes as far as it can be seen without a cluster: Helm's own library renders the chart, the schemas of
Kubernetes check what comes out, and the real command line takes every container's command.

Strimzi's and KEDA's kinds have no schema in any package; what is said here of them is what their documents ask for.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from containers import ROOT, planned

from deploy.kubernetes import generate
from deploy.stages import STAGES, TRAINERS
from processors import kafka
from schemas.load import load
from schemas.settings import Settings
from schemas.topics import BY_NAME, TOPICS

helm = pytest.importorskip("helm_python", reason="the package helm-python-sdk has no build for this machine")

CHART = ROOT / "deploy" / "kubernetes" / "chart"
SMALL = yaml.safe_load((CHART.parent / "small.yaml").read_text())
MACHINES = {"trainers": {"sft": {"machines": 2, "processes": 8}}, "metrics": {"podMonitor": True}}
CLUSTER = {
    "kafka": {"create": False},
    "settings": {"broker": {"bootstrap": "kafka-1:9093", "security_protocol": "SSL"}},
    "keda": {"trigger": {"tls": "enable"}, "authentication": "kafka-tls"},
    "data": {"claim": "shared"},
}
STORE = {
    "data": {"store": "s3://bucket/run"},
    "env": [{"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "id"}}}],
}
EVERY = pytest.mark.parametrize(
    "values",
    [{}, SMALL, MACHINES, CLUSTER, STORE],
    ids=["default", "small", "machines", "cluster", "store"],
)
FOREIGN = {"kafka.strimzi.io/v1", "keda.sh/v1alpha1", "monitoring.coreos.com/v1"}
"""Kinds that the operators bring."""
LONGEST_NAME = 63


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The release 'astro' in the namespace 'research', a document each."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        texts = chart.render(values, name="astro", namespace="research")
    documents = (yaml.safe_load_all(text) for name, text in texts.items() if name.endswith(".yaml"))
    return [document for each in documents for document in each if document]


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in documents if each["kind"] == kind}


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each pod of the factory: its part's name, its spec, its container."""
    for document in documents:
        if document["kind"] in {"Deployment", "Job"}:
            spec = document["spec"]["template"]["spec"]
            yield spec["containers"][0]["name"], spec, spec["containers"][0]


def environment(container: dict[str, Any]) -> dict[str, str]:
    secret = {each["name"]: "of a secret" for each in container["env"] if "secretKeyRef" in each.get("valueFrom", {})}
    return secret | {each["name"]: each["value"] for each in container["env"] if "value" in each}


def settings_of(documents: list[dict[str, Any]], tmp_path: Path) -> tuple[Settings, Path]:
    """The settings that the pods read, and their file."""
    file = tmp_path / "factory.json"
    file.write_text(of_kind(documents, "ConfigMap")["astro-settings"]["data"]["factory.json"])
    return load(file, {}), file


@EVERY
def test_helm_finds_no_fault(values) -> None:
    report = helm.lint(CHART, values, strict=True)
    assert report["errors"] == []
    assert [each for each in report["messages"] if each["severity"] > 1] == []


@EVERY
def test_what_comes_out_is_what_kubernetes_takes(values) -> None:
    documents = rendered(values)
    for document in documents:
        if document["apiVersion"] not in FOREIGN:
            kubernetes_validate.validate(document, "1.34", strict=True)
    names = [(each["kind"], each["metadata"]["name"]) for each in documents]
    assert len(names) == len(set(names))
    labels = {"app.kubernetes.io/name": "astro-factory", "app.kubernetes.io/instance": "astro"}
    (policy,) = of_kind(documents, "NetworkPolicy").values()
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    for document in documents:
        if document["kind"] in {"Deployment", "Job"}:
            assert labels.items() <= document["spec"]["template"]["metadata"]["labels"].items()


def test_the_generated_topics_are_those_of_today() -> None:
    assert generate.FILE.read_text() == generate.content(), "run `python -m deploy.kubernetes.generate`"


OTHER_SIZES = {"settings": {"topics": {"default_partitions": 12}, "broker": {"message_max_bytes": 33_554_432}}}


@pytest.mark.parametrize("values", [{}, SMALL, OTHER_SIZES], ids=["default", "small", "other sizes"])
def test_the_topics_are_those_that_the_factory_would_create(values, tmp_path) -> None:
    documents = rendered(values)
    settings, _ = settings_of(documents, tmp_path)
    made = of_kind(documents, "KafkaTopic")
    assert set(made) == set(BY_NAME)
    (cluster,) = of_kind(documents, "Kafka")
    for topic in TOPICS:
        assert made[topic.name]["spec"] == {
            "partitions": topic.partitions(settings),
            "replicas": settings.broker.replication_factor,
            "config": kafka.topic_config(settings),
        }
        assert made[topic.name]["metadata"]["labels"]["strimzi.io/cluster"] == cluster


@EVERY
def test_every_stage_is_there_once_and_the_command_line_takes_its_command(values, tmp_path) -> None:
    from torch.distributed.run import get_args_parser

    documents = rendered(values)
    _, file = settings_of(documents, tmp_path)
    broker = values.get("settings", {}).get("broker", {}).get("bootstrap", "astro-kafka-bootstrap.research.svc:9092")
    seen = []
    for name, _, container in pods(documents):
        seen.append(name)
        arguments = container["args"]
        if name in TRAINERS:
            assert container["command"] == ["torchrun"]
            number = {"$(JOB_COMPLETION_INDEX)": "0"}  # Kubernetes puts it in
            torchrun = get_args_parser().parse_args([arg.replace(*next(iter(number.items()))) for arg in arguments])
            assert torchrun.module
            assert torchrun.training_script == "deploy.cli"
            arguments = torchrun.training_script_args
        said = planned(arguments, environment(container), {"/etc/factory/factory.json": file}, tmp_path)
        assert (broker in said) if name != "studio" else ("on 127.0.0.1, port 8080" in said)
    assert sorted(seen) == sorted([*STAGES, "studio"])


@EVERY
def test_a_pod_may_finish_the_longest_search_before_it_goes(values, tmp_path) -> None:
    documents = rendered(values)
    settings, _ = settings_of(documents, tmp_path)
    for name, spec, container in pods(documents):
        grace = float(environment(container)["FACTORY_FACTORY_GRACE_S"])
        assert settings.search.timeout_s < grace < settings.broker.rebalance_timeout_ms / 1000
        if name in STAGES and name not in TRAINERS:
            assert spec["terminationGracePeriodSeconds"] >= grace + 30


def test_keda_scales_each_group_on_every_topic_that_it_consumes_slowly(tmp_path) -> None:
    documents = rendered({})
    settings, _ = settings_of(documents, tmp_path)
    scaled = of_kind(documents, "ScaledObject")
    assert set(scaled) == {f"astro-{stage}" for stage in ("search", "linearize", "verify", "sample")}
    deployments = of_kind(documents, "Deployment")
    for name, document in scaled.items():
        stage, spec = name.removeprefix("astro-"), document["spec"]
        assert "replicas" not in deployments[spec["scaleTargetRef"]["name"]]["spec"]  # KEDA's alone
        consumed = [topic for topic in TOPICS if stage in topic.consumers]
        assert [trigger["metadata"]["topic"] for trigger in spec["triggers"]] == [topic.name for topic in consumed]
        for trigger in spec["triggers"]:
            assert trigger["metadata"]["consumerGroup"] == stage
            assert all(isinstance(value, str) for value in trigger["metadata"].values())
        assert spec["maxReplicaCount"] <= min(topic.partitions(settings) for topic in consumed)
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert (
            min(spec["cooldownPeriod"], behavior["scaleDown"]["stabilizationWindowSeconds"]) > settings.search.timeout_s
        )
        assert all(rule["policies"][0]["value"] == 1 for rule in behavior.values())
    most = scaled["astro-search"]["spec"]["maxReplicaCount"] * settings.search.trees_in_flight
    assert most == settings.topics.problems_partitions
    assert most < settings.problems.ahead, "the searchers must never wait for the producer"


def test_without_keda_the_numbers_of_pods_are_fixed() -> None:
    documents = rendered(SMALL)
    assert of_kind(documents, "ScaledObject") == {}
    assert {each["spec"]["replicas"] for each in of_kind(documents, "Deployment").values()} == {1}


def test_the_machines_of_a_trainer_find_the_first_one() -> None:
    documents = rendered(MACHINES)
    (name,) = (name for name in of_kind(documents, "Job") if name.startswith("astro-sft-"))
    job, service = of_kind(documents, "Job")[name], of_kind(documents, "Service")["astro-sft"]
    pod = job["spec"]["template"]
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 2, 2)
    assert pod["spec"]["subdomain"] == "astro-sft"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    arguments = pod["spec"]["containers"][0]["args"]
    assert {"--nnodes=2", "--nproc-per-node=8", f"--master-addr={name}-0.astro-sft"} <= set(arguments)
    assert len(f"{name}-0") <= LONGEST_NAME


def test_a_job_that_would_change_is_another_job() -> None:
    """Kubernetes refuses to change a Job's pods; an upgrade with other settings must not end in that."""
    before = set(of_kind(rendered({}), "Job"))
    assert set(of_kind(rendered({"keda": {"upSeconds": 60}}), "Job")) == before
    for values in ({"settings": {"sft": {"lr": 1e-5}}}, {"hardware": {"gpu": {"image": "astro-factory:2"}}}):
        assert not set(of_kind(rendered(values), "Job")) & before


def test_secrets_reach_every_pod_by_reference_only() -> None:
    secret = {"name": "KAFKA_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "kafka", "key": "password"}}}
    documents = rendered({"env": [secret]})
    assert all(secret in container["env"] for _, _, container in pods(documents))
    assert of_kind(documents, "Secret") == {}


def test_on_a_store_no_volume_is_shared() -> None:
    documents = rendered(STORE)
    assert of_kind(documents, "PersistentVolumeClaim") == {}
    for _, spec, container in pods(documents):
        assert environment(container)["FACTORY_FACTORY_STORE"] == "s3://bucket/run"
        assert {"name": "data", "emptyDir": {}} in spec["volumes"]


def test_pods_have_no_more_rights_than_they_need() -> None:
    for _, spec, container in pods(rendered({})):
        assert spec["securityContext"]["runAsNonRoot"]
        assert not spec["automountServiceAccountToken"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not container["securityContext"]["allowPrivilegeEscalation"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"settings": {"search": {"timeout_s": 7200}}}, "rebalance_timeout_ms is 900 s: raise it"),
        ({"settings": {"factory": {"data": "/elsewhere"}}}, "settings.factory.data is set by the chart"),
        ({"settings": {"factory": {"store": "s3://b"}}}, "settings.factory.store is set by the chart"),
        ({"data": {"store": "s3://b"}, "trainers": {"rl": {"machines": 2}}}, "machines of one trainer share a volume"),
        ({"settings": {"broker": {"bootstrap": "kafka:9092"}}}, "set kafka.create to false"),
        ({"settings": {"broker": {"replication_factor": 5}}}, "cannot have more copies than there are brokers"),
        ({"kafka": {"create": False}}, "name your cluster in settings.broker.bootstrap"),
        ({"stages": {"search": {"hardware": "tpu"}}}, "hardware.tpu: there is no such hardware"),
        ({"stages": {"serch": {"hardware": "cpu"}}}, "serch"),
        ({"stages": {"search": {"replica": 3}}}, "replica"),
        ({"trainers": {"sft": {"machines": 0}}}, "minimum"),
    ],
    ids=json.dumps,
)
def test_values_that_could_not_work_are_refused(values, sentence) -> None:
    with pytest.raises(helm.HelmError, match=sentence):
        rendered(values)


def test_a_stage_and_a_trainer_can_be_left_out() -> None:
    documents = rendered({"stages": {"produce": None}, "trainers": {"rl": None}, "studio": False})
    assert {name for name, _, _ in pods(documents)} == set(STAGES) - {"produce", "rl"}
