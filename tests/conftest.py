import importlib
import socket
import sys
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
