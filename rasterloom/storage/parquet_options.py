"""Options of the Parquet files of each table."""

from rasterloom.schema import IMAGES, PICTURE

# Codes are close to random: their bytes apart cost less room than a dictionary or deltas, and a page as
# large as its row group less than four (benchmarks/bench_tokens.py). From level 16 on zstd weighs what a
# match costs; the levels below find chance ones that make such bytes longer.
TOKEN_PARQUET = {
    "compression": "zstd",
    "compression_level": 16,
    "data_page_size": 1 << 22,
    "use_dictionary": ["bucket", "task"],
    "column_encoding": {"input_ids.list.element": "BYTE_STREAM_SPLIT"},
}


# Staged for packing, which looks for a bucket and a range of the order: small groups, little work.
CODES_PARQUET = {**TOKEN_PARQUET, "compression_level": 1, "row_group_size": 128}


# Beside these, for the same reader.
PROMPTS_PARQUET = {
    "compression": "zstd",
    "row_group_size": 1024,
    "use_dictionary": ["bucket", "captions.list.element.name"],
}


# Encoded images do not compress; few rows a group keep a reader's memory small.
IMAGE_PARQUET = {
    "row_group_size": 64,
    "compression": {
        **{name: "none" if name == "image" else "zstd" for name in IMAGES.names if name != "more"},
        **{f"more.list.element.{f.name}": "none" if f.name == "image" else "zstd" for f in PICTURE},
    },
}


TEXT_PARQUET = {"row_group_size": 10_000, "compression": "zstd"}
