"""Registry of judges, built in and of plug-ins."""

from collections.abc import Callable, Sequence

from rasterloom.filtering.judges.base import Judge
from rasterloom.filtering.judges.clip import ClipJudge, HpsJudge, PickScoreJudge
from rasterloom.filtering.judges.scene import SceneJudge
from rasterloom.filtering.judges.sets import ClipDistanceJudge, CmmdJudge
from rasterloom.filtering.judges.vqa import VqaJudge
from rasterloom.filtering.options import make_by_name
from rasterloom.recipe.filtering import Score
from rasterloom.utils import plugins
from rasterloom.utils.plugins import Plugin

JUDGES: dict[str, Callable[..., Judge]] = {
    judge.name: judge
    for judge in (
        SceneJudge,
        ClipJudge,
        VqaJudge,
        HpsJudge,
        PickScoreJudge,
        ClipDistanceJudge,
        CmmdJudge,
    )
}
REFUSED = {
    "imagereward": "the package image-reward, which Rasterloom does not load: use hpsv2 or pickscore",
    "fid": "the Inception network of FID, which Rasterloom does not load: use clip-fd or cmmd",
}
MEMBERS = ("name", "version", "digest", "__call__")  # of a judge


def load_plugin(plugin: Plugin) -> Callable[..., Judge]:
    """Load what makes the judge of a plug-in. PluginError if it is none."""
    make: Callable[..., Judge] = plugin.load((), JUDGES)
    if isinstance(make, type):
        plugin.check(make, MEMBERS)
    return make


def make_judges(configs: Sequence[Score]) -> list[Judge]:
    """Make judges by name and options. Large weights are loaded when the first image is judged.

    Raises:
        ValueError: a judge or an option is unknown, named twice or lacking, or weights are missing.
    """
    judges: list[Judge] = []
    for config in configs:
        if any(judge.name == config.name for judge in judges):
            raise ValueError(f"the judge {config.name} is named twice")
        judges.append(_make(config))
    return judges


def identity_of(judges: Sequence[Judge]) -> dict[str, str]:
    """Return what each judge's scores are computed by: name -> version, digest and package."""
    found = {}
    for judge in judges:
        plugin = None if judge.name in JUDGES else plugins.find(plugins.JUDGES, judge.name)
        parts = (judge.version, judge.digest, plugin.source if plugin else "")
        found[judge.name] = ":".join(filter(None, parts))
    return found


def _make(config: Score) -> Judge:
    if config.name in REFUSED and plugins.find(plugins.JUDGES, config.name) is None:
        raise ValueError(
            f"the judge {config.name} needs {REFUSED[config.name]}, or add a plug-in that loads it "
            "(docs/extending.md)"
        )
    made: Judge = make_by_name("judge", plugins.JUDGES, config, JUDGES, load_plugin, MEMBERS)
    return made
