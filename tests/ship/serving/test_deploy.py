"""The container and the manifests: all that the service needs, and values that fit each other."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_repository import ROOT, pins

DEPLOY = ROOT / "deploy"


def deployed() -> dict[str, str]:
    """Return the versions in deploy/requirements.txt."""
    lines = (DEPLOY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
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
    assert re.search(r"^FROM python:[\d.]+-slim$", container, flags=re.MULTILINE)
    user = re.search(r"^USER (\d+)$", container, flags=re.MULTILINE)
    assert int(user[1]) > 0
    assert container.index("USER") < container.index("ENTRYPOINT")
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", container, flags=re.MULTILINE)[1])
    assert entry[:3] == ["python", "-m", "gan_tutorial.ship.serving"]


@pytest.fixture
def manifests() -> dict[str, dict]:
    text = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(text)}


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_manifests_are_what_kubernetes_knows(manifests, version):
    assert set(manifests) == {"Deployment", "Service", "HorizontalPodAutoscaler"}
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
    (port,) = container["ports"]
    assert service["ports"][0]["targetPort"] == port["name"]
    file = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    assert f'"--port", "{port["containerPort"]}"' in file
    assert f"USER {pod['securityContext']['runAsUser']}" in file
    probed = {
        container[f"{kind}Probe"]["httpGet"]["path"]
        for kind in ("startup", "readiness", "liveness")
    }
    assert probed == {"/readyz", "/healthz"}
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert {"cpu", "memory"} == set(container["resources"]["limits"])
    drain = float(container["args"][container["args"].index("--drain") + 1])
    assert pod["terminationGracePeriodSeconds"] > drain + 30
