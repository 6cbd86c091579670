"""Build the container, run it as deploy/kubernetes.yaml says, and check what it promises.

    python deploy/container.py [--base IMAGE]     (or make container, which also writes a model)

Without --base no registry of images is needed: a Debian base is made of Debian's own packages. It
installs the tools that it needs. On a machine that cannot run containers it says so and stops,
without an error: it needs Debian and root, and may be told by a sandbox that it may not.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import yaml

from gan_tutorial import records

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "_build" / "container"
TOOLS = ("podman", "runc", "mmdebstrap")  # of Debian; crun refuses some versions of cgroups
INCLUDE = "python3,python3-pip,libstdc++6,passwd"  # the third for NumPy and onnxruntime
LEFT_OUT = ("doc", "man", "locale", "info")  # of /usr/share
PATIENCE, LONGEST, CLIENTS = 60, 900, 8  # seconds, of a request and of a program
seconds: dict[str, float] = {}
answered: list[int] = []  # the status of each answer


class SkipError(Exception):
    """This machine cannot make or run containers; the message says why."""


@contextlib.contextmanager
def timed(step: str) -> Iterator[None]:
    """Print and keep how long a step takes."""
    print(f"{step:34}", end="", flush=True)
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start
    print(f"{seconds[step]:7.1f} s", flush=True)


def run(*command: object, **options: object) -> str:
    """Run a program; return what it prints, or raise CalledProcessError, with its last lines."""
    try:
        done = subprocess.run(
            [*map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=LONGEST,
            **options,
        )
    except subprocess.TimeoutExpired as error:
        message = f"it did not end within {LONGEST} s"
        raise subprocess.CalledProcessError(-9, str(command[0]), message) from error
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise subprocess.CalledProcessError(done.returncode, str(command[0]), end)
    return done.stdout


def install() -> None:
    """Install Debian's tools if they are missing."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SkipError("it needs Debian, and root")
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        silent = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-q", env=silent)
        run("apt-get", "install", "-qy", "--no-install-recommends", *missing, env=silent)


class Podman:
    """podman with images and containers in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        storage = ("--root", folder / "root", "--runroot", folder / "run")
        self.command = ("podman", *storage, "--runtime", "runc", "--cgroup-manager", "cgroupfs")

    def __call__(self, *arguments: object) -> str:
        """Run one command; return what it prints."""
        return run(*self.command, *arguments)

    def logs(self, name: str) -> str:
        """Return what a container has printed."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.run([*self.command, "logs", name], check=True, **pipes).stdout

    def fault(self, *arguments: object) -> str:
        """Run a command that should fail; return its message, or nothing if it succeeds."""
        try:
            self(*arguments)
        except subprocess.CalledProcessError as error:
            return error.output
        return ""

    def inspect(self, name: str, value: str, kind: str = "container") -> str:
        """Return one value of an image or a container."""
        return self(kind, "inspect", "--format", f"{{{{{value}}}}}", name).strip()


def debian(podman: Podman) -> str:
    """Make a base from the packages of this machine's Debian; return its name."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
    )
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    sources = sources if sources.exists() else Path("/etc/apt/sources.list")
    command = ["mmdebstrap", "--mode=root", "--variant=essential", f"--include={INCLUDE}"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
    # pip may install here: no one else uses this Python
    command.append('--customize-hook=rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED')
    archive = OUT / "base.tar"
    run(*command, release["VERSION_CODENAME"].strip('"'), archive, sources)
    podman("import", archive, "localhost/base")
    archive.unlink()
    return "localhost/base"


def download(podman: Podman, base: str) -> None:
    """Download the packages for the Python of the base, so that the build needs no network."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = podman("run", "--rm", *OUTSIDE, base, "python3", "-c", program).strip()
    which = ("--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version", version)
    wheels, listing = OUT / "wheels", ROOT / "deploy" / "requirements.txt"
    run(sys.executable, "-m", "pip", "download", *which, "-d", wheels, "-r", listing)
    (OUT / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")


# Of the host: its network, as there may be no other; and no more files and processes than it has.
OUTSIDE = ("--network", "host", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=1024:1024")


def build(podman: Podman, base: str, model: Path) -> None:
    """Build deploy/Containerfile."""
    chosen = {"BASE": base, "MODEL": model.relative_to(ROOT)}
    arguments = [f"--build-arg={name}={value}" for name, value in chosen.items()]
    mounts = {OUT / "wheels": "/wheels", OUT / "pip.conf": "/etc/pip.conf"}
    arguments += [f"--volume={here}:{there}:ro" for here, there in mounts.items()]
    file = ("-f", "deploy/Containerfile", "-t", "localhost/pictures:1")
    podman("build", "--isolation", "chroot", *arguments, *file, ".")


def start(podman: Podman, port: int) -> int:
    """Start it with the rights, the limits and the arguments of the Deployment; return the user."""
    text = (ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8")
    (deployment,) = (m for m in yaml.safe_load_all(text) if m["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    security, limits = container["securityContext"], container["resources"]["limits"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    rights = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=all"]
    rights += ["--security-opt=no-new-privileges"]
    bounds = [f"--memory={limits['memory'].lower().removesuffix('i')}", f"--cpus={limits['cpu']}"]
    where = ["--host", "127.0.0.1", "--port", port]  # the last of two counts
    name = ("-d", "--name", "pictures", "localhost/pictures:1")
    podman("run", *OUTSIDE, *rights, *bounds, *name, *container["args"], *where)
    return pod["securityContext"]["runAsUser"]


def ask(port: int, path: str, body: dict | None = None) -> tuple[int, bytes]:
    """Send one request; return its status and body, 0 where there was no connection."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            status, content = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    except (urllib.error.URLError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        assert isinstance(reason, ConnectionError), reason  # closed, and the request unread
        return 0, b""
    answered.append(status)
    return status, content


def wait_until_ready(podman: Podman, port: int) -> None:
    """Ask /readyz until it says yes."""
    end = time.perf_counter() + PATIENCE
    while ask(port, "/readyz")[0] != 200:
        running = podman.inspect("pictures", ".State.Running") == "true"
        if not running or time.perf_counter() > end:
            raise AssertionError(f"it is not ready: {podman.logs('pictures')}")
        time.sleep(0.05)


def check_rights(podman: Podman, expected: int) -> dict[str, float]:
    """Check what the service runs as, and that it can write nowhere; return user and memory."""
    status = Path(f"/proc/{podman.inspect('pictures', '.State.Pid')}/status").read_text()
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    user, memory = int(found["Uid"].split()[0]), int(found["VmRSS"].split()[0]) * 1024 / 1e6
    assert set(found["Uid"].split()) == {str(expected)}, found["Uid"]
    assert expected != 0, "it is root"
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 0, "it has capabilities"
    assert found["NoNewPrivs"] == "1", "it may gain rights"
    for folder in ("/", "/service", "/tmp", "/var/tmp"):
        attempt = ("exec", "--user", "0", "pictures", "touch", f"{folder}/written")
        assert "Read-only file system" in podman.fault(*attempt), f"{folder} can be written"
    return {"user": user, "memory": memory}


def stop_under_load(podman: Podman, port: int) -> dict[str, int]:
    """Send SIGTERM while clients ask; return what they and the service have counted."""
    closed = threading.Event()

    def client(seed: int) -> None:
        while not closed.is_set():
            status, _ = ask(port, "/generate", {"count": 8, "seed": seed})
            assert status in (200, 0), status
            if not status:
                closed.set()

    with ThreadPoolExecutor(CLIENTS) as crowd:
        clients = [crowd.submit(client, seed) for seed in range(CLIENTS)]
        time.sleep(1)
        podman("kill", "--signal", "TERM", "pictures")
        podman("wait", "pictures")
        closed.set()
    for future in clients:
        future.result()
    status, last = podman.inspect("pictures", ".State.ExitCode"), podman.logs("pictures")
    assert status == "0", f"it ended with {status}: {last}"
    counts = re.search(r"stopped: (\d+) of (\d+) requests answered\n$", last)
    assert counts, last
    found = {"clients": len(answered), "answered": int(counts[1]), "accepted": int(counts[2])}
    assert len(set(found.values())) == 1, found
    return found


def bill_of_materials(podman: Podman, tools: Path) -> dict[str, int]:
    """Write what is in the image, in the format CycloneDX; return the number of packages."""
    archive = OUT / "image.tar"
    files = {name: OUT / f"{name.lower()}.cdx.json" for name in ("Debian", "Python")}
    podman("export", "-o", archive, "pictures")
    command = (tools / "debsbom", "generate", "-t", "cdx", "-r", archive)
    run(*command, "-o", OUT / "debian")  # it adds the rest of the name
    listing = ROOT / "deploy" / "requirements.txt"
    run(tools / "cyclonedx-py", "requirements", listing, "-o", files["Python"])
    archive.unlink()
    found = {}
    for name, file in files.items():
        components = json.loads(file.read_text(encoding="utf-8"))["components"]
        found[name] = sum("arch=source" not in component["purl"] for component in components)
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("deploy/container.py", description=__doc__.split("\n")[0])
    parser.add_argument("--base", help="an image with Python; by default one is made of Debian")
    parser.add_argument("--model", type=Path, default=ROOT / "_build" / "digits.onnx")
    parser.add_argument("--port", type=int, default=18080, help="free port on this machine")
    parser.add_argument("--sbom", type=Path, help="folder of debsbom and cyclonedx-py")
    parser.add_argument("--out", type=Path, help="where to store the figures")
    options = parser.parse_args()
    model = options.model.resolve()
    if not model.is_file() or not model.is_relative_to(ROOT):
        sys.exit(
            f"error: there is no model at {model}, in {ROOT}; write one with gan_tutorial export"
        )
    try:
        socket.create_server(("127.0.0.1", options.port)).close()
    except (OSError, OverflowError) as error:
        sys.exit(f"error: --port {options.port}: {error}")
    with tempfile.TemporaryDirectory(prefix="container-") as folder:
        podman = Podman(Path(folder))
        try:
            measured = check(podman, options)
        except SkipError as reason:
            print(f"\nskipped, for this machine cannot make containers: {reason}")
            return
        except subprocess.CalledProcessError as error:
            sys.exit(f"\nerror: {error.cmd} ended with {error.returncode}:\n{error.output}")
        finally:
            with contextlib.suppress(subprocess.CalledProcessError, FileNotFoundError):
                podman("rm", "--all", "--force")
                podman("rmi", "--all", "--force")
    if options.out:
        records.save(measured, options.out, torch.device("cpu"))


def check(podman: Podman, options: argparse.Namespace) -> dict:
    """Do all steps; return the figures."""
    load = os.getloadavg()[0]
    try:
        with timed("install the tools"):
            install()
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir(parents=True)
        with timed("make the base" if not options.base else "fetch the base"):
            base = options.base or debian(podman)
            podman("run", "--rm", *OUTSIDE, base, "true")
    except subprocess.CalledProcessError as error:
        raise SkipError(
            f"{error.cmd}: {(error.output or 'no message').splitlines()[-1]}"
        ) from error
    with timed("download Python's packages"):
        download(podman, base)
    with timed("build"):
        build(podman, base, options.model.resolve())
    sizes = {
        name: int(podman.inspect(image, ".Size", "image")) / 1e6
        for name, image in (("base", base), ("image", "localhost/pictures:1"))
    }
    with timed("start, until it is ready"):
        user = start(podman, options.port)
        wait_until_ready(podman, options.port)
    with timed("a picture"):
        status, png = ask(options.port, "/generate", {"count": 16, "seed": 1})
    assert (status, png[:4]) == (200, b"\x89PNG"), status
    found = check_rights(podman, user)
    with timed("SIGTERM under load, until its end"):
        stopped = stop_under_load(podman, options.port)
    packages = {}
    if options.sbom:
        with timed("bill of materials"):
            packages = bill_of_materials(podman, options.sbom)
    print(", ".join(f"{name} {size:.0f} MB" for name, size in sizes.items()), end="; ")
    print(f"user {found['user']}, nowhere to write, {found['memory']:.0f} MB of memory")
    print("requests by the clients' count and by the service's:", *stopped.values())
    for name, count in packages.items():
        print(f"{count} packages of {name} are listed in {OUT}")
    return found | {
        "load_average": load,
        "seconds": dict(seconds),
        "megabytes": sizes,
        "stopped": stopped,
        "packages": packages,
    }


if __name__ == "__main__":
    main()
