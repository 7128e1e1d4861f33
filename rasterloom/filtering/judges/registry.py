"""Registry of judges, built in and of plug-ins."""

from collections.abc import Callable, Sequence

from rasterloom.errors import PluginError, one_line
from rasterloom.filtering.judges.base import Judge
from rasterloom.filtering.judges.clip import ClipJudge, HpsJudge, ImageRewardJudge, PickScoreJudge
from rasterloom.filtering.judges.scene import SceneJudge
from rasterloom.filtering.judges.sets import ClipDistanceJudge, CmmdJudge, FidJudge
from rasterloom.filtering.judges.vqa import VqaJudge
from rasterloom.filtering.options import check_options
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
        ImageRewardJudge,
        ClipDistanceJudge,
        CmmdJudge,
        FidJudge,
    )
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
    plugin = None
    make = JUDGES.get(config.name)
    if make is None:
        plugin = plugins.find(plugins.JUDGES, config.name)
        if plugin is None:
            raise ValueError(plugins.missing(plugins.JUDGES, config.name, JUDGES))
        make = load_plugin(plugin)
    check_options("judge", config.name, config.options, make)
    if plugin is None:
        return make(**config.options)
    try:
        judge = make(**config.options)
    except Exception as error:
        raise PluginError(f"{plugin} cannot be made: {type(error).__name__}: {one_line(error)}") from None
    plugin.check(judge, MEMBERS)
    if judge.name != config.name:
        raise PluginError(f"{plugin} calls itself {judge.name!r}, not {config.name!r}")
    return judge
