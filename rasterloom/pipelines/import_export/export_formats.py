"""The forms that a corpus can be exported in."""

from enum import StrEnum


class Form(StrEnum):
    HF = "hf"
    WEBDATASET = "webdataset"
    PARQUET = "parquet"
    FILES = "files"
