"""The container and the manifests: all that the service needs, and values that fit each other."""

import importlib.metadata
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import uvicorn
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_repository import ROOT, pins

from gan_tutorial.ship.serving.limits import Limits

DEPLOY = ROOT / "deploy"


def deployed() -> dict[str, str]:
    """Return the versions in deploy/requirements.txt."""
    text = (DEPLOY / "requirements.txt").read_text(encoding="utf-8")
    pairs = re.findall(r"^([\w.-]+)==(\S+)", text, flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_container_has_the_versions_of_the_book_and_all_dependencies():
    here, there = deployed(), pins()
    assert {name: version for name, version in here.items() if there.get(name) != version} == {}
    for name in here:
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in here, f"{name} needs {text}"
    assert "torch" not in here


def run(program: str, *arguments: object, folder: Path = ROOT) -> list[str]:
    """Return the words that a program prints in a fresh interpreter in a folder."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return done.stdout.split()


def test_the_container_has_every_package_that_the_service_imports():
    program = (
        "import sys; before = {*sys.modules}; import gan_tutorial.ship.serving.__main__;"
        "print(*{name.split('.')[0] for name in {*sys.modules} - before})"
    )
    distributions = importlib.metadata.packages_distributions()
    found = {name for module in run(program) for name in distributions.get(module, [])}
    assert {"fastapi", "numpy", "onnxruntime"} < found
    assert {*map(canonicalize_name, found)} - deployed().keys() == {"gan-tutorial"}


def test_the_service_runs_from_the_files_that_the_container_copies(digits_onnx, tmp_path):
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {"gan_tutorial/assets", "**/__pycache__"} < set(ignored)
    container = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    assert "\nCOPY gan_tutorial gan_tutorial\n" in container
    assert "\nCOPY deploy/requirements.txt .\n" in container
    left_out = shutil.ignore_patterns("assets", "__pycache__")
    shutil.copytree(ROOT / "gan_tutorial", tmp_path / "gan_tutorial", ignore=left_out)
    program = (
        "import sys; from gan_tutorial.ship.serving import app, limits, model;"
        "generator = model.OnnxGenerator(sys.argv[1]);"
        "app.application(app.Service(generator, limits.Limits(), limits.ServerState()));"
        "print(app.__file__)"
    )
    (file,) = run(program, digits_onnx, folder=tmp_path)
    assert Path(file).is_relative_to(tmp_path)


def test_the_container_is_small_and_not_root():
    container = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG BASE=python:[\d.]+-slim\nFROM \$\{BASE\}$", container, re.MULTILINE)
    user = re.search(r"^USER (\d+)$", container, flags=re.MULTILINE)
    assert int(user[1]) > 0
    assert container.index("USER") < container.index("ENTRYPOINT")
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", container, flags=re.MULTILINE)[1])
    assert entry[:3] == ["python3", "-m", "gan_tutorial.ship.serving"]


@pytest.fixture
def manifests() -> dict[str, dict]:
    text = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(text)}


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_manifests_are_what_kubernetes_knows(manifests, version):
    assert set(manifests) == {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "NetworkPolicy",
    }
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_manifest_would_be_found(manifests):
    manifests["HorizontalPodAutoscaler"]["spec"]["minReplica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifests["HorizontalPodAutoscaler"], "1.31", strict=True)


def test_manifests_fit_each_other_and_the_service(manifests):
    deployment, service = manifests["Deployment"]["spec"], manifests["Service"]["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert service["selector"].items() <= deployment["template"]["metadata"]["labels"].items()
    assert manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "pictures"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert service["ports"][0]["targetPort"] == "http"
    file = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    assert f'"--port", "{ports["http"]}"' in file
    assert f"USER {pod['securityContext']['runAsUser']}" in file
    probed = [
        container[f"{kind}Probe"]["httpGet"]["path"]
        for kind in ("startup", "readiness", "liveness")
    ]
    assert probed == ["/readyz", "/readyz", "/healthz"]
    for kind in ("startup", "readiness", "liveness"):  # which clients cannot fill
        assert container[f"{kind}Probe"]["httpGet"]["port"] == "metrics"
    assert {"cpu", "memory"} == set(container["resources"]["limits"])
    arguments = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    assert pod["terminationGracePeriodSeconds"] > float(arguments["--drain"]) + 30
    annotations = deployment["template"]["metadata"]["annotations"]
    assert int(arguments["--metrics_port"]) == ports["metrics"]
    assert int(annotations["prometheus.io/port"]) == ports["metrics"]


def test_losing_a_node_or_emptying_it_leaves_a_pod(manifests):
    template = manifests["Deployment"]["spec"]["template"]
    chosen = [
        *template["spec"]["topologySpreadConstraints"],
        manifests["PodDisruptionBudget"]["spec"],
    ]
    for rule in chosen:
        assert rule["labelSelector" if "maxSkew" in rule else "selector"] == {
            "matchLabels": template["metadata"]["labels"]
        }
    rules = {rule["topologyKey"]: rule for rule in template["spec"]["topologySpreadConstraints"]}
    by_node = rules["kubernetes.io/hostname"]
    assert (by_node["maxSkew"], by_node["whenUnsatisfiable"]) == (1, "DoNotSchedule")
    least = manifests["HorizontalPodAutoscaler"]["spec"]["minReplicas"]
    assert least - manifests["PodDisruptionBudget"]["spec"]["maxUnavailable"] >= 1


def test_the_network_policy_opens_the_ports_of_the_pod_and_no_others(manifests):
    policy, template = (
        manifests["NetworkPolicy"]["spec"],
        manifests["Deployment"]["spec"]["template"],
    )
    assert policy["podSelector"]["matchLabels"] == template["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    opened = [
        (port["port"], rule.get("from")) for rule in policy["ingress"] for port in rule["ports"]
    ]
    assert [port for port, _ in opened] == [port["name"] for port in container["ports"]]
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert opened == [("http", None), ("metrics", [{"namespaceSelector": monitoring}])]
    assert policy["egress"] == []
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}


def test_the_proxy_fits_the_service():
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")

    def number(name: str, unit: str) -> int:
        return int(re.search(rf"^ *{name} (\d+){unit};", text, flags=re.MULTILINE)[1])

    limits, options = Limits(), inspect.signature(uvicorn.Config).parameters
    assert 1024 * number("client_max_body_size", "k") == limits.body
    assert number("keepalive_timeout", "s") < options["timeout_keep_alive"].default
    assert number("proxy_read_timeout", "s") > 2 * limits.seconds  # the body, then the response
    assert re.search(r"^ *location = /metrics {\s+return 404;", text, flags=re.MULTILINE)


def test_every_package_of_the_container_has_hashes():
    text = (DEPLOY / "requirements.txt").read_text(encoding="utf-8")
    for package in re.split(r"\n(?=\w)", text)[1:]:
        assert "    --hash=sha256:" in package, package
    container = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    assert "--require-hashes -r requirements.txt" in container


def container(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    """Run deploy/container.py where there is no apt-get."""
    return subprocess.run(
        [sys.executable, DEPLOY / "container.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": str(folder), "PYTHONPATH": str(ROOT)},
    )


def test_a_machine_without_debian_says_why_it_makes_no_container(tmp_path):
    done = container(tmp_path, "--model", __file__)
    assert done.returncode == 0
    last = done.stdout.splitlines()[-1]
    assert last == "skipped, for this machine cannot make containers: it needs Debian, and root"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "nowhere.onnx"), "error: there is no model at "),
        (("--model", "/etc/hostname"), "error: there is no model at "),  # not sent to the builder
        (("--model", __file__, "--port", 70000), "error: --port 70000: "),
    ],
)
def test_a_bad_argument_of_the_container_is_one_line(arguments, says, tmp_path):
    done = container(tmp_path, *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(says)
