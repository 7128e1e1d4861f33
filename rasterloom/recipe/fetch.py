"""Section `fetch`: download of images."""

from typing import Literal

from pydantic import Field, model_validator

from rasterloom.recipe.base import Section, is_default

Resize = Literal["keep_ratio_largest", "keep_ratio", "center_crop", "border", "none"]
PIXEL_BYTES = 16
"""Memory that decoding takes at most for each pixel; tests/sources/images/test_memory.py measures it."""
WORKER_BYTES = 400_000_000
"""Memory of a worker that fetches without that: libraries, what is under way, 32 MB of shards' images."""
OptOutTag = Literal["noai", "noimageai", "noml", "noindex", "noimageindex"]


class Fetch(Section):
    """Download of images, and their stored form."""

    max_side: int = Field(1536, ge=32)
    """Longest side of a stored image, in pixels; larger ones are scaled down."""
    resize: Resize = Field("keep_ratio_largest", exclude_if=is_default("keep_ratio_largest"))
    """Resize mode, named as in img2dataset. ``keep_ratio`` and ``center_crop``: max_side is the shortest
    side, and the latter cuts out the square in the middle; ``border`` adds white to make a square; ``none``:
    no image is scaled. An image that is smaller than max_side stays as it is."""
    engine: Literal["rasterloom", "img2dataset"] = "rasterloom"
    """Downloader; docs/fetch.md lists the limits of img2dataset."""
    deadline_s: float = Field(30.0, gt=0)
    """Seconds for an image in all, attempts and redirects included, to the last byte; time in the queue does
    not count."""
    retries: int = Field(2, ge=0)
    """Retries after a transient failure (5xx, 429, reset), within the deadline."""
    per_host: int = Field(8, ge=1)
    """Concurrent requests to one host; ``run.host_limits`` says whether of one worker or of all."""
    host_rate: float | None = Field(None, gt=0)
    """Rate limit for one host, in requests a second, likewise; null: only the host's Crawl-delay."""
    patience_s: float = Field(60.0, ge=0)
    """Seconds a row waits at most where a host asks for it (Crawl-delay, Retry-After); then it fails."""
    host_down_after: int = Field(20, ge=0)
    """Failed requests in a row after which a host counts as down and is not asked; 0: never."""
    host_down_s: float = Field(300.0, gt=0)
    """Seconds until one row tries a host that is down again."""
    concurrency: int = Field(64, ge=1)
    """Concurrent requests of one worker that may hold an image; more may wait for slow hosts."""
    max_bytes: int = Field(50_000_000, ge=1)
    """Size limit of a response body, in bytes."""
    max_pixels: int = Field(100_000_000, ge=1)
    """Size limit of an image, in pixels; larger ones are not decoded. A worker takes up to 16 bytes for each,
    and 0.4 GB."""
    max_redirects: int = Field(5, ge=0)
    """Redirects that are followed; each hop is checked like the first."""
    robots: bool = True
    """Obey robots.txt."""
    opt_out_tags: tuple[OptOutTag, ...] = ("noai", "noimageai", "noml")
    """Directives of the X-Robots-Tag header that are obeyed; noindex and noimageindex can be added."""
    opt_out: str | None = None
    """Text, CSV or Parquet file of hosts, URLs, prefixes and SHA-256 hashes to leave out."""
    md5: str | None = None
    """Column of the sources with the MD5 of the file, in hex, that it must have."""
    sha256: str | None = None
    """Column of the sources with the SHA-256 of the file, in hex, that it must have."""
    allow_hosts: tuple[str, ...] = ()
    """``host:port`` pairs whose private addresses are allowed: intranets, tests."""
    user_agent: str = "rasterloom/0.1 (+https://github.com/rasterloom/rasterloom)"
    """User agent with a contact; put an address of your own here."""
    jpeg_quality: int = Field(92, ge=1, le=100)
    """JPEG quality of re-encoded images; an image that fits as received is stored byte for byte."""
    jpeg_chroma: Literal["4:4:4", "4:2:0"] = "4:4:4"
    """Chroma subsampling of re-encoded images; 4:2:0, as in img2dataset, takes a fifth less room."""
    shard_rows: int = Field(1000, ge=1)
    """Pairs in a shard: the unit of work, and the most that is repeated when a worker dies."""

    @property
    def worker_bytes(self) -> int:
        """Memory that a worker takes at most."""
        return WORKER_BYTES + PIXEL_BYTES * self.max_pixels

    @model_validator(mode="after")
    def _engine_can(self) -> "Fetch":
        if self.engine == "img2dataset" and self.md5:
            raise ValueError("engine img2dataset computes SHA-256 only: give sha256, or no md5")
        return self

    @model_validator(mode="after")
    def _borders_fit(self) -> "Fetch":
        if self.resize == "border" and self.max_side**2 > self.max_pixels:
            raise ValueError(
                f"resize: border makes squares of {self.max_side} pixels a side, more than max_pixels in all"
            )
        return self
