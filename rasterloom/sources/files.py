"""Files of a source on disk or S3, and their digest."""

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Any, BinaryIO

import pyarrow.fs as pafs

from rasterloom.errors import SourceError, one_line
from rasterloom.recipe.sources import Source
from rasterloom.sources import local_paths
from rasterloom.sources.local_paths import BlockedPath
from rasterloom.sources.remote import is_local, scheme_of, store_of
from rasterloom.storage.store import Entry, Store
from rasterloom.utils.redact import masked

__all__ = ["Files", "Target", "digest_of", "find_files", "split_path"]

CONTENT_BYTES = 1_000_000_000  # a source on disk of up to so many bytes is identified by its content
BUFFER_BYTES = 1 << 20
READ_ONLY = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC  # no link, no pipe should be there
ELSEWHERE = "leads elsewhere"  # of a link that is not followed, in a digest
HIDDEN = "names with a dot in front: name them if they are meant"
LINKED = "links to folders: name the folder in the recipe"
SIDECARS = ("json", "txt", "caption")  # suffixes of what lies beside an image, in any case
IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
)
# Kinds that cameras and programs write and that may not be decoded: a row each, and its bytes decide.
OTHER_IMAGE_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".avifs", ".jxl", ".jp2", ".j2k", ".jpx", ".jpf", ".jxr", ".wdp", ".apng"),
    *(".jpg_large", ".jpg_orig", ".jpg-large", ".jpeg_large", ".png_large", ".jif", ".pjpeg", ".pjp"),
    *(".mpo", ".ico", ".cur", ".svg", ".svgz", ".psd", ".psb", ".xcf", ".kra", ".tga", ".dds", ".exr"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".pcx", ".sgi", ".eps", ".wmf", ".emf", ".dng", ".cr2"),
    *(".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw", ".hdr", ".qoi"),
)
_WILD = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Target:
    """One path of a recipe: a file, all of a folder, or what a glob matches in a folder."""

    name: str  # relative to the store; of a glob, the folder that it starts in
    is_file: bool
    glob: str = ""  # relative to that folder

    @property
    def path(self) -> str:
        """The path as it was written, relative to the store."""
        return "/".join(part for part in (self.name, self.glob) if part)


@dataclass(frozen=True)
class Files:
    """The files of a source: names below the common folder of its paths."""

    store: Store
    targets: tuple[Target, ...]

    @property
    def explicit(self) -> bool:
        """True if every path names one file."""
        return all(target.is_file for target in self.targets)

    @property
    def is_local(self) -> bool:
        """True if they lie on a disk."""
        return is_local(self.store.root)

    def entries(self) -> Iterator[Entry]:
        """Yield the files in the order of the paths. Those of a folder or a glob come in a fixed order.

        Names that begin with a dot are left out, where they are not named themselves.

        Raises:
            SourceError: there is no such file or folder, or it cannot be listed.
        """
        for target in self.targets:
            try:
                yield from self._of(target)
            except FileNotFoundError:
                raise SourceError(f"{self.shown(target.path)}: no such file") from None
            except OSError as error:
                raise SourceError(f"{self.shown(target.name)}: cannot be read: {one_line(error)}") from None

    def _of(self, target: Target) -> Iterator[Entry]:
        if target.is_file:
            yield self.store.entry(target.name)
            return
        pattern = _translate(target.glob) if target.glob else None
        for entry in self.store.entries(target.name):
            below = entry.name[len(target.name) :].lstrip("/")
            if "/." not in f"/{below}" and (pattern is None or _matches(pattern, below)):
                yield entry

    def passed_over(self) -> Iterator[tuple[str, str]]:
        """Yield the names that `entries` leaves out, with the reason. A folder is one of them.

        Raises:
            SourceError: S3 cannot be asked.
        """
        for target in self.targets:
            pattern = _translate(target.glob) if target.glob else None
            found = () if target.is_file else self._hidden(target)
            try:
                for name, reason in found:
                    below = name[len(target.name) :].lstrip("/")
                    if pattern is None or reason == LINKED or pattern.fullmatch(below):
                        yield name, reason
            except OSError as error:
                raise SourceError(f"{self.shown(target.name)}: cannot be read: {one_line(error)}") from None

    def _hidden(self, target: Target) -> Iterator[tuple[str, str]]:
        if self.store.is_s3:
            for entry in self.store.entries(target.name):
                if "/." in f"/{entry.name[len(target.name) :]}":
                    yield entry.name, HIDDEN
            return
        enters = not target.glob or "/" in target.glob or "**" in target.glob
        root = self.store.path(target.name)
        for folder, folders, names in os.walk(root):
            inside = "" if folder == root else folder[len(root) :].strip("/")
            place = "/".join(part for part in (target.name, inside) if part)
            for name in sorted((*folders, *names)):
                shown = f"{place}/{name}".lstrip("/")
                if name.startswith("."):
                    yield shown, HIDDEN
                elif enters and name in folders and os.path.islink(f"{folder}/{name}"):
                    yield shown, LINKED
            folders[:] = sorted(name for name in folders if enters and not name.startswith("."))

    def shown(self, name: str) -> str:
        """Return a file's name for a person."""
        path = self.store.path(name)
        scheme = scheme_of(self.store.root)
        return masked(f"{scheme}://{path.removeprefix(f'{scheme}://')}") if scheme else path

    def path(self, name: str) -> str:
        """Return the path that the store's file system opens a file by.

        On a disk, a file that the recipe names is what it leads to, one in a folder or a glob of the recipe
        must lie there, and one that a list names in the folder that all paths have in common.

        Raises:
            BlockedPath: it leads elsewhere.
            OSError: it is not there, or no regular file.
        """
        path = self.store.path(name)
        if not self.is_local:
            return path
        if name in self._named:
            return local_paths.regular_file(path)
        listed = any(f"{name}/".startswith(f"{folder}/") or not folder for folder in self._folders)
        return local_paths.real_path(path, self._real if listed else self._real_common, self.shown(name))

    @cached_property
    def _named(self) -> frozenset[str]:
        return frozenset(target.name for target in self.targets if target.is_file)

    @cached_property
    def _folders(self) -> list[str]:
        return [target.name for target in self.targets if not target.is_file]

    @cached_property
    def _real(self) -> list[str]:
        """The folders that the recipe names, without links."""
        paths = [self.store.path(folder) for folder in self._folders]
        return [real for path in paths for real in local_paths.real_folders(path)]

    @cached_property
    def _real_common(self) -> list[str]:
        return local_paths.real_folders(self.store.path()) if self._named else self._real

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading from its start. Raises: as :meth:`path`."""
        if self.is_local:
            return open(os.open(self.path(name), READ_ONLY), "rb", buffering=BUFFER_BYTES)
        return io.BufferedReader(self.open_arrow(name), BUFFER_BYTES)

    def open_arrow(self, name: str) -> Any:
        """Open a file as Arrow's own kind of file. Raises: as :meth:`path`."""
        return self.store.filesystem.open_input_file(self.path(name))


def find_files(source: Source) -> Files:
    """Find the folder of a source's files, without listing it.

    Raises:
        SourceError: the paths cannot be used together, or S3 cannot be asked.
    """
    folders, targets = [], []
    for path in source.paths:
        if scheme_of(path) != scheme_of(source.paths[0]):
            raise SourceError(f"{path}: paths of several kinds cannot be mixed; give each its own source")
        folder, name, glob = split_path(path)
        folders.append(folder)
        targets.append((folder, name, glob))
    root = folders[0] if len(set(folders)) == 1 else _common(folders)
    found = []
    for folder, name, glob in targets:
        below = folder[len(root) :].strip("/")
        inside = "/".join(part for part in (below, name) if part)
        found.append(Target(inside, bool(name), glob))
    return Files(store_of(root), tuple(found))


def split_path(path: str) -> tuple[str, str, str]:
    """Split a path into (folder, file, glob). File and glob are relative to the folder, or empty.

    A part that exists as it is written is no pattern, whatever characters it has.

    Raises:
        SourceError: S3 cannot be asked.
    """
    parts = path.rstrip("/").split("/")
    for number, part in enumerate(parts):
        if _WILD.search(part) and not _exists("/".join(parts[: number + 1])):
            return "/".join(parts[:number]) or "/", "", "/".join(parts[number:])
    plain = path.rstrip("/")
    folder, _, name = plain.rpartition("/")
    if not is_local(path):
        if plain.count("/") == 2:  # a bucket
            return plain, "", ""
        try:  # what has a suffix is a file, unless a slash says that it is a folder
            is_file = not path.endswith("/") and bool(_suffix(name) or store_of(folder).exists(name))
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {one_line(error)}") from None
        return (folder, name, "") if is_file else (plain, "", "")
    if os.path.isdir(path):
        return plain or "/", "", ""
    return folder or ("/" if path.startswith("/") else "."), name, ""


def _exists(path: str) -> bool:
    if is_local(path):
        return os.path.lexists(path)
    folder, _, name = path.rpartition("/")
    if folder.endswith(":/"):  # a bucket's name takes no such characters
        return False
    store = store_of(folder)
    try:
        return bool(store.filesystem.get_file_info(store.path(name)).type != pafs.FileType.NotFound)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {one_line(error)}") from None


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _common(folders: list[str]) -> str:
    split = [folder.split("/") for folder in folders]
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*split, strict=False))]
    if not is_local(folders[0]) and len(shared) < 3:
        raise SourceError(f"{folders[0]}: paths in several buckets; give each bucket its own source")
    return "/".join(shared) or "/"


def _matches(pattern: re.Pattern[str], name: str) -> bool:
    """Tell whether a glob means a file, or its image: the caption comes with that."""
    if pattern.fullmatch(name):
        return True
    stem, suffix = os.path.splitext(name)
    if suffix[1:].lower() not in SIDECARS:
        return False
    known = (*IMAGE_SUFFIXES, *OTHER_IMAGE_SUFFIXES)
    if _suffix(stem) in ("", *known) and pattern.fullmatch(stem):  # a.jpg of a.jpg.txt
        return True
    return any(pattern.fullmatch(stem + s) or pattern.fullmatch(stem + s.upper()) for s in known)


def _translate(pattern: str) -> re.Pattern[str]:
    """Turn a glob into a regular expression: ``*`` stays within a folder, ``**`` does not."""
    out, rest = [], pattern
    while rest:
        if rest.startswith("**/"):
            out.append("(?:.*/)?")
            rest = rest[3:]
        elif rest.startswith("**"):
            out.append(".*")
            rest = rest[2:]
        elif rest[0] == "*":
            out.append("[^/]*")
            rest = rest[1:]
        elif rest[0] == "?":
            out.append("[^/]")
            rest = rest[1:]
        elif rest[0] == "[" and (end := rest.find("]", 2)) > 0:
            first = "^" if rest[1] == "!" else ""
            inside = re.sub(r"([\\^\[])", r"\\\1", rest[2 if first else 1 : end])
            out.append(f"[{first}{inside}]")
            rest = rest[end + 1 :]
        else:
            out.append(re.escape(rest[0]))
            rest = rest[1:]
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error:
        return re.compile(re.escape(pattern))


def digest_of(files: Files, seen: Callable[[str], None] = lambda name: None) -> str:
    """Return a digest of what a source holds, as hex digits. Call ``seen`` with the name of each file.

    On a disk: the content of its files, or, beyond ``CONTENT_BYTES``, their names, sizes and times. On S3:
    names, sizes and ETags. Names are relative to the source; one file is known by its content alone, so
    moving or renaming it changes nothing.

    Raises:
        SourceError: there are none, or one cannot be read.
    """
    listing, content = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    left: int = CONTENT_BYTES
    is_one = files.explicit and len(files.targets) == 1
    number = 0
    for number, entry in enumerate(files.entries(), start=1):  # noqa: B007
        seen(entry.name)
        name = b"" if is_one else os.fsencode(entry.name)
        blocked = files.is_local and _is_blocked(files, entry.name)
        listing.update(repr((name, entry.size, ELSEWHERE if blocked else entry.stamp)).encode())
        left -= entry.size
        if left >= 0 and files.is_local:
            held = ELSEWHERE if blocked else _content(files.store.path(entry.name))
            content.update(repr((name, held)).encode())
    if not number:
        raise SourceError(f"{files.shown(files.targets[0].path)}: no files there")
    return (listing if left < 0 or not files.is_local else content).hexdigest()


def _is_blocked(files: Files, name: str) -> bool:
    """Tell if a file is a link that is not followed. Folders behind links are not listed."""
    if not os.path.islink(files.store.path(name)):
        return False
    try:
        files.path(name)
    except BlockedPath:
        return True
    except OSError:
        pass
    return False


def _content(path: str) -> str:
    try:
        stat = os.stat(path)
        return _content_at(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    except OSError as error:
        if os.path.islink(path):
            return ""  # a link that leads nowhere
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from None


@lru_cache(maxsize=65_536)
def _content_at(path: str, stamp: tuple[int, ...]) -> str:
    if not os.path.isfile(path):
        return "no file"  # a pipe would be waited for
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
