import importlib
import os
import random
import signal
import sys
from pathlib import Path

import endings
import numpy as np
import ports
import pytest
import seaweed
from hypothesis import settings

from rasterloom.utils.local_ray import stop_local_ray

# Before torch is imported, here and in what tests start: threads that wait by spinning take the cores from
# those that they wait for, and test processes side by side have a core each.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before Triton is imported: its kernels are computed by NumPy, on a CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")
# Ray's workers would be of the lowest priority, and stand still wherever other work goes on beside the tests.
os.environ.setdefault("RAY_worker_niceness", "0")

# Ignored where the tests run in a shell's background, and so in all that they start, which Ctrl-C should end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A gate draws the same examples every time, so more of them find no more; nights draw new ones, by the seed
# that they print. A deadline would time the machine, not the code.
settings.register_profile("gate", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("night", deadline=None, print_blob=True)
settings.load_profile("gate")

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"


def _listed(name):
    lines = (Path(__file__).parent / name).read_text().splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


SLOW, NIGHTLY = _listed("slow.txt"), _listed("nightly.txt")

# Files with the longest tests, longest first: begun last, one of them would run alone at the end.
LONGEST = (
    "tests/pipelines/test_cluster.py",
    "tests/train/test_ray_trainer.py",
    "tests/pipelines/test_survival.py",
    "tests/pipelines/test_train.py",
    "tests/differential/",
    "tests/test_terminal.py",
    "tests/pipelines/test_s3.py",
    "tests/pipelines/test_docs.py",
    "tests/pipelines/test_gone_on_s3.py",
    "tests/pipelines/test_mistakes.py",
    "tests/pipelines/test_gpu_actors.py",
    "tests/scripts/test_gpu_table.py",
    "tests/pipelines/",
    "tests/train/",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests that slow.txt and nightly.txt name, and put the longest first."""
    for item in items:
        if item.nodeid.startswith(NIGHTLY):
            item.add_marker("nightly")
        elif item.nodeid.startswith(SLOW):
            item.add_marker("slow")
    items.sort(key=_place)


def _place(item):
    return next((i for i, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    endings.arm()


def pytest_runtest_makereport(item, call):
    endings.stop_after_rays_handler(item, call)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    endings.kill_what_is_left()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef):
    """Seed what is shared, too: a module's model is the same whichever test of it comes first."""
    if fixturedef.scope != "function":
        _seed()


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Seed of the global generators, the same whatever ran before."""
    _seed()


@pytest.fixture(autouse=True)
def _no_recipe_of_another_command():
    """The command line remembers the recipe that it was given, for its messages: each test is a new one."""
    if "rasterloom.cli.options" in sys.modules:
        sys.modules["rasterloom.cli.options"]._given.clear()


def _seed():
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
    return ports.free_port


@pytest.fixture(scope="session")
def seaweedfs_in():
    """A context that has a server in a folder, started, and the variables set that lead there."""
    return seaweed.served


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory, seaweedfs_in):
    """The server that tests share; its bucket is `lake`."""
    with seaweedfs_in(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def s3(seaweedfs):
    """A bucket on a real S3 server."""
    return "s3://lake"


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
        code = app.run()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
