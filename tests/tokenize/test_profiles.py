import pytest

from rasterloom.recipe.tokenize import CODECS
from rasterloom.tokenize.profiles import CHAMELEON, MINI, MOVQ, PROFILES, max_grid, profile_of


def used_ids(profile):
    """Return every id that has a meaning of its own."""
    singles = [profile.bos, profile.pad, profile.sep, profile.boi, profile.eoi, profile.eol]
    grids = range(profile.grid0, profile.grid0 + 65)
    images = range(profile.image0, profile.image0 + profile.codebook_size)
    return [*singles, *grids, *images]


def test_chameleon_ids_are_those_of_lumina_mgpt():
    p = CHAMELEON
    assert (p.bos, p.pad, p.image0, p.eoi, p.boi) == (0, 1, 4, 8196, 8197)
    assert (p.sep, p.eol, p.grid0, p.vocab_size) == (8710, 8803, 8804, 65536)
    assert (p.downsample, p.codebook_size, p.grid_unit) == (16, 8192, 32)


def test_movq_ids_are_those_of_lumina_mgpt_2():
    p = MOVQ
    assert (p.boi, p.eoi, p.eol, p.grid0, p.image0) == (151665, 151666, 151670, 151671, 155000)
    assert (p.downsample, p.codebook_size, p.vocab_size) == (8, 16384, 171385)


def test_mini_has_no_gaps():
    assert sorted([2, 3, *used_ids(MINI)]) == list(range(MINI.text0))
    assert MINI.vocab_size - MINI.text0 == 439


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_no_id_means_two_things(profile):
    ids = used_ids(profile)
    assert len(set(ids)) == len(ids)
    assert min(ids) >= 0 and max(ids) < profile.vocab_size
    assert max_grid(profile) >= 64


def test_every_codec_of_the_recipe_has_a_profile():
    for codec in CODECS:
        assert profile_of(codec).name == codec
    with pytest.raises(ValueError, match="unknown codec 'jpeg'; known: chameleon, movq, mini"):
        profile_of("jpeg")


def test_text_that_is_trained_takes_its_room():
    assert profile_of("mini", 439) == MINI
    assert profile_of("mini", 1000).vocab_size == 2097
    assert profile_of("chameleon", 30_000) == CHAMELEON
    with pytest.raises(ValueError, match="text_vocab 50000 does not fit chameleon, which has 49152"):
        profile_of("chameleon", 50_000)
    with pytest.raises(ValueError, match="does not fit movq"):
        profile_of("movq", 151_644)
