"""Reading what the reference's pre_tokenize.py leaves. The forms are those of its files, see lumina-mgpt."""

import io
import json
import os
import pickle
import re

import numpy as np
import pytest

from rasterloom.schema import TOKENS
from rasterloom.tokenize.lumina_import import IGNORED, import_samples, load_pickle, read_record
from rasterloom.tokenize.profiles import CHAMELEON, MOVQ
from rasterloom.tokenize.unirep import frame


def framed(size=(64, 32), profile=CHAMELEON, seed=0):
    shape = (size[1] // profile.downsample, size[0] // profile.downsample)
    codes = np.random.default_rng(seed).integers(0, profile.codebook_size, shape)
    return frame(codes, profile).tolist()


def t2i(number=0, prompt=5, size=(64, 32), profile=CHAMELEON):
    """A sample as the reference writes it: bos, prompt, sep, picture, sep."""
    text0 = profile.text0 + 100
    context = [profile.bos, *range(text0, text0 + prompt), profile.sep]
    answer = [*framed(size, profile, number), profile.sep]
    return {"token": context + answer, "label": [IGNORED] * len(context) + answer, "id": number}


@pytest.fixture
def write(tmp_path):
    """A function that writes samples (or bytes) as files, and gives the entries of their record."""

    def write(*samples):
        (tmp_path / "files").mkdir(exist_ok=True)
        entries = []
        for number, sample in enumerate(samples):
            data = sample if isinstance(sample, bytes) else pickle.dumps(sample)
            path = tmp_path / "files" / f"{number}.pkl"
            path.write_bytes(data)
            entries.append({"file": str(path), "len": None, "id": number})
            if isinstance(sample, dict):
                entries[-1]["len"] = len(sample.get("token", ()))
        return entries

    return write


def read(entries, folder, profile=CHAMELEON):
    return import_samples([(f"entry {n}", e) for n, e in enumerate(entries)], folder, 512, profile)


@pytest.mark.parametrize("profile", [CHAMELEON, MOVQ], ids=lambda p: p.name)
def test_samples_become_rows(write, tmp_path, profile):
    samples = [t2i(n, 3 + n, size, profile) for n, size in enumerate([(64, 32), (512, 512), (32, 128)])]
    tokens, failures = read(write(*samples), tmp_path, profile)
    assert len(failures) == 0
    assert tokens.schema == TOKENS
    assert tokens["key"].to_pylist() == sorted(set(tokens["key"].to_pylist()))
    by_length = {row["n_tokens"]: row for row in tokens.to_pylist()}
    for sample, bucket in zip(samples, ("64x32", "512x512", "32x128"), strict=True):
        row = by_length[len(sample["token"])]
        assert row["input_ids"] == sample["token"]
        start, end = row["loss_spans"]
        assert sample["label"][:start] == [IGNORED] * start
        assert sample["label"][start:end] == sample["token"][start:end] and end == len(sample["token"])
        assert (row["bucket"], f"{row['width']}x{row['height']}") == (bucket, bucket)
        assert (row["target"], row["task"], row["caption"]) == (512, "t2i", None)


def test_conversations_with_several_answers_have_several_spans(write, tmp_path):
    first, second = framed((64, 32)), framed((32, 64))
    turns = [[20000, 8710], [*first, 8710], [20001, 8710], [*second, 20002, 8710]]
    ids, label = [0], [IGNORED]
    for number, turn in enumerate(turns):
        ids += turn
        label += turn if number % 2 else [IGNORED] * len(turn)
    text = {"token": [0, 20000, 8710, 20001, 8710], "label": [IGNORED] * 3 + [20001, 8710], "id": 1}
    tokens, _ = read(write({"token": ids, "label": label, "id": 0}, text), tmp_path)
    rows = {row["n_tokens"]: row for row in tokens.to_pylist()}
    row = rows[len(ids)]
    assert [label[a:b] for a, b in zip(row["loss_spans"][::2], row["loss_spans"][1::2], strict=True)] == [
        turns[1],
        turns[3],
    ]
    assert (row["bucket"], row["task"]) == ("32x64", "imported")
    assert (rows[5]["bucket"], rows[5]["width"], rows[5]["loss_spans"]) == ("text", 0, [3, 5])


def without(sample, at):
    return {
        **sample,
        "token": sample["token"][:at] + sample["token"][at + 1 :],
        "label": sample["label"][:at] + sample["label"][at + 1 :],
    }


def relabelled(sample, at, label):
    return {**sample, "label": [*sample["label"][:at], label, *sample["label"][at + 1 :]]}


def replaced(sample, at, token):
    both = {name: [*sample[name][:at], token, *sample[name][at + 1 :]] for name in ("token", "label")}
    return {**sample, **both}


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


BAD = {
    "cut off": (lambda good: pickle.dumps(good)[:-9], "not a pickle of plain values"),
    "empty": (lambda good: b"", "not a pickle of plain values"),
    "text": (lambda good: b"hello", "not a pickle of plain values"),
    "numpy": (lambda good: {**good, "token": np.array(good["token"])}, "it holds numpy.*where numbers"),
    "no label": (lambda good: {"token": good["token"]}, "not a dict with token and label"),
    "a list": (lambda good: [1, 2], "not a dict with token and label"),
    "strings": (lambda good: {**good, "token": ["a"]}, "its token is no list of ids"),
    "booleans": (lambda good: {**good, "label": [True]}, "its label is no list of ids"),
    "huge": (lambda good: {**good, "token": [1 << 70]}, "its token is no list of ids"),
    "short": (lambda good: {**good, "label": good["label"][1:]}, "22 tokens have 21 labels"),
    "other label": (lambda good: relabelled(good, 21, 5), r"position 21 has the label 5 for the token 8710"),
    "not learnt": (lambda good: {**good, "label": [IGNORED] * 22}, "nothing in it is learnt"),
    "lost code": (lambda good: without(good, 12), "the frame at position 7: "),
    "lost eoi": (lambda good: without(good, 20), "the frame at position 7: "),
    "text in a frame": (lambda good: replaced(good, 12, 20000), "the frame at position 7: .*no image token"),
    "no boi": (lambda good: replaced(good, 7, 20000), "stands in no frame"),
    "beyond": (lambda good: replaced(good, 21, 65536), "outside of chameleon's"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_broken_samples_are_named(write, tmp_path, name):
    make, message = BAD[name]
    good = t2i()
    assert len(good["token"]) == 22
    entries = write(good, make(good))
    entries[1]["len"] = None
    tokens, failures = read(entries, tmp_path)
    assert len(tokens) == 1
    (reason,) = failures["reason"].to_pylist()
    assert re.match(rf"files/1.pkl: .*{message}", reason), reason


def test_no_code_of_a_pickle_is_run(tmp_path, write):
    mark = tmp_path / "run"
    tokens, failures = read(write(Evil(mark), {"token": [Evil(mark)], "label": []}), tmp_path)
    assert len(tokens) == 0
    assert all("system" in reason for reason in failures["reason"].to_pylist())
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(ValueError, match="not a pickle of plain values"):
            load_pickle(pickle.dumps(Evil(mark), protocol))
        assert load_pickle(pickle.dumps(t2i(), protocol)) == t2i()
    for code in (b"cbuiltins\neval\n(S'1'\ntR.", b"(ibuiltins\nlist\n.", b"Pname\n.", b"\x82\x01."):
        with pytest.raises(ValueError, match="not a pickle of plain values"):
            load_pickle(code)
    assert not mark.exists()


def test_persistent_ids_are_refused():
    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return "elsewhere" if thing == "x" else None

    buffer = io.BytesIO()
    Pickler(buffer).dump(["x"])
    with pytest.raises(ValueError, match="refers to objects outside"):
        load_pickle(buffer.getvalue())


def test_the_record_is_held_against_the_files(write, tmp_path):
    entries = write(t2i(0), t2i(1), t2i(2))
    entries[0]["len"] = 99
    entries[1]["file"] = "/gone/away/files/1.pkl"  # found beside the record
    entries[2]["file"] = "files/7.pkl"
    tokens, failures = read([*entries, {"id": 4}, "half a li", {"file": 3}], tmp_path)
    assert len(tokens) == 1
    assert sorted(failures["reason"].to_pylist()) == [
        "entry 3: not an object that names a file",
        "entry 4: not an object that names a file",
        "entry 5: not an object that names a file",
        "files/0.pkl: the record says 99 tokens, the file has 22",
        "files/7.pkl: no such file, nor files/7.pkl beside the record",
    ]


def test_both_forms_of_record_are_read(tmp_path):
    entries = [{"file": "files/0.pkl", "len": 3, "id": 0}, {"file": "files/1.pkl", "len": 4, "id": 1}]
    whole, lines = tmp_path / "record.json", tmp_path / "0-of-1-record.jsonl"
    whole.write_text(json.dumps(entries))
    assert [entry for _, entry in read_record(whole)] == entries
    lines.write_text("\n".join(json.dumps(entry) for entry in entries) + '\n{"file": "fi')
    assert read_record(lines) == [("line 1", entries[0]), ("line 2", entries[1]), ("line 3", '{"file": "fi')]
    lines.write_text(json.dumps(entries[0]))  # one line is not one list
    assert read_record(lines) == [("line 1", entries[0])]
    for text in ("", "no record", "3"):
        lines.write_text(text)
        with pytest.raises(ValueError, match="is no record"):
            read_record(lines)
    with pytest.raises(ValueError, match="cannot read the record"):
        read_record(tmp_path / "none.json")
