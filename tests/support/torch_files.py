"""Contents of files of torch, for comparisons to the bit."""

import zipfile


def contents(folder):
    """All records of all torch's files below a folder.

    But for whether tensors require gradients: a copy requires none, and nothing that loads it asks.
    """
    found = {}
    for file in folder.rglob("*.pt"):
        with zipfile.ZipFile(file) as records:
            for name in records.namelist():
                data = records.read(name)
                if name.endswith("/data.pkl"):
                    data = data.replace(b"\x88", b"\x89")  # pickle's true and false
                if not name.endswith("/serialization_id"):  # a digest of it
                    found[str(file.relative_to(folder)), name] = data
    return found
