"""Plug-ins of other installed packages, by entry point."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from rasterloom.errors import PluginError, one_line
from rasterloom.utils.suggest import did_you_mean

READERS, SCORERS, CODECS = "rasterloom.readers", "rasterloom.scorers", "rasterloom.codecs"
JUDGES = "rasterloom.judges"
_KINDS = {READERS: "reader", SCORERS: "scorer", CODECS: "codec", JUDGES: "judge"}


@dataclass(frozen=True)
class Plugin:
    """One entry point and the distribution that has it."""

    group: str
    name: str
    target: str  # package.module:object
    distribution: str
    version: str
    entry_point: EntryPoint = field(repr=False, compare=False)

    @property
    def kind(self) -> str:
        return _KINDS[self.group]

    @property
    def source(self) -> str:
        """Distribution and version, as they stand in a step's identity."""
        return f"{self.distribution} {self.version}"

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of {self.source} (entry point {self.target})"

    def load(self, members: Sequence[str], built_in: Collection[str]) -> Any:
        """Import the plug-in and check that it is one.

        Args:
            members: what it must have.
            built_in: names that no plug-in may take.

        Raises:
            PluginError: its name is taken, it cannot be imported, or it lacks a member.
        """
        if self.name in built_in:
            raise PluginError(f"{self}: Rasterloom has a {self.kind} of that name, which is used instead")
        try:
            found = self.entry_point.load()
        except Exception as error:
            raise PluginError(
                f"{self} cannot be imported: {type(error).__name__}: {one_line(error)}; "
                f"repair or remove {self.distribution}"
            ) from None
        if not callable(found):
            raise PluginError(f"{self} is no {self.kind}: the entry point must name a class or function")
        self.check(found, members)
        return found

    def check(self, found: object, members: Sequence[str]) -> None:
        """Raise PluginError where an object lacks a member of its kind's protocol."""
        if lacking := [name for name in members if not hasattr(found, name)]:
            raise PluginError(f"{self} is no {self.kind}: it has no {', '.join(lacking)}")


@lru_cache(maxsize=4)
def installed(group: str) -> tuple[Plugin, ...]:
    """Return the plug-ins of a group by name. Nothing of them is imported."""
    found = []
    for point in entry_points(group=group):
        name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "0")
        found.append(Plugin(group, point.name, point.value, name, version, point))
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.distribution)))


def find(group: str, name: str) -> Plugin | None:
    """Return a plug-in by name, None if no installed package has it.

    Raises:
        PluginError: several packages bring it.
    """
    found = [plugin for plugin in installed(group) if plugin.name == name]
    if len(found) > 1:
        several = ", ".join(plugin.source for plugin in found)
        raise PluginError(f"the {_KINDS[group]} {name!r} comes with {several}: remove all but one")
    return found[0] if found else None


def known_names(group: str, name: str, built_in: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the one that was probably meant, and all."""
    names = list(built_in)
    return did_you_mean(name, [*names, *sorted({p.name for p in installed(group)} - {*names})])


def missing(group: str, name: str, built_in: Iterable[str]) -> str:
    """Return the message for a name that no package knows."""
    kind = _KINDS[group]
    return (
        f"unknown {kind} {name!r}; {known_names(group, name, built_in)}. A plug-in must be installed on "
        "every machine that runs steps (docs/extending.md)"
    )


def identity(group: str, names: Iterable[str], built_in: Collection[str]) -> dict[str, Any]:
    """Return what plug-ins add to a step's identity. Nothing where all names are built in.

    Raises:
        PluginError: a name is not built in, and no installed package, or more than one, brings it.
    """
    found = {}
    for name in sorted({*names}.difference(built_in)):
        plugin = find(group, name)
        if plugin is None:
            raise PluginError(missing(group, name, built_in))
        found[name] = plugin.source
    return {"plugins": found} if found else {}
