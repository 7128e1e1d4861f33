"""`fetch`: how images are fetched."""

from typing import Literal

from pydantic import Field, model_validator

from rasterloom.recipe.base import Section

OptOutTag = Literal["noai", "noimageai", "noml", "noindex", "noimageindex"]


class Fetch(Section):
    """How images are fetched, and in what form they are kept."""

    max_side: int = Field(1536, ge=32)
    """Longest side of a stored image, in pixels; larger ones are scaled down."""
    engine: Literal["rasterloom", "img2dataset"] = "rasterloom"
    """Who fetches; see docs/fetch.md for what img2dataset leaves out."""
    deadline_s: float = Field(30.0, gt=0)
    """Seconds a picture may take in all, attempts and redirects added up, to the last byte; waiting for
    one's turn does not count."""
    retries: int = Field(2, ge=0)
    """Further attempts after a failure that may pass (5xx, 429, reset), while the deadline lasts."""
    per_host: int = Field(8, ge=1)
    """Requests of one worker under way at once to one host."""
    host_rate: float | None = Field(None, gt=0)
    """Requests a second of one worker to one host; null: no limit but the host's own Crawl-delay."""
    patience_s: float = Field(60.0, ge=0)
    """Seconds a row waits where a host asks for it (Crawl-delay, Retry-After), and then fails."""
    host_down_after: int = Field(20, ge=0)
    """Failed requests in a row after which a host counts as down and is not asked; 0: never."""
    host_down_s: float = Field(300.0, gt=0)
    """Seconds after which one row tries a host that is down."""
    concurrency: int = Field(64, ge=1)
    """Requests under way at once in one worker."""
    max_bytes: int = Field(50_000_000, ge=1)
    """A larger body is given up."""
    max_pixels: int = Field(100_000_000, ge=1)
    """A picture that declares more is not decoded."""
    max_redirects: int = Field(5, ge=0)
    """Redirects that are followed; each hop is checked as the first was."""
    robots: bool = True
    """Obey robots.txt."""
    opt_out_tags: tuple[OptOutTag, ...] = ("noai", "noimageai", "noml")
    """Directives of the X-Robots-Tag header that are obeyed; add noindex or noimageindex by choice."""
    opt_out: str | None = None
    """Text, CSV or Parquet file of hosts, URLs, prefixes and SHA-256 hashes that are not taken."""
    md5: str | None = None
    """Column of the sources with the MD5 of the file, in hex, that it must have."""
    sha256: str | None = None
    """Column of the sources with the SHA-256 of the file, in hex, that it must have."""
    allow_hosts: tuple[str, ...] = ()
    """``host:port`` pairs that may be private addresses: intranets, tests."""
    user_agent: str = "rasterloom/0.1 (+https://github.com/rasterloom/rasterloom)"
    """Name and contact: whoever runs the fetch should put an address of their own here."""
    jpeg_quality: int = Field(92, ge=1, le=100)
    """Of pictures that are stored anew; one that is right as received stays byte for byte."""
    jpeg_chroma: Literal["4:4:4", "4:2:0"] = "4:4:4"
    """Resolution of the colours of pictures that are stored anew; 4:2:0 halves it, as img2dataset does, and
    takes a fifth less room."""
    shard_rows: int = Field(1000, ge=1)
    """Pairs in a shard: the unit of work that is lost at most when a worker dies."""

    @model_validator(mode="after")
    def _engine_can(self) -> "Fetch":
        if self.engine == "img2dataset" and self.md5:
            raise ValueError("engine img2dataset computes SHA-256 only: give sha256, or no md5")
        return self
