from rasterloom.utils.suggest import closest, did_you_mean


def test_the_closest_name_is_found_whatever_its_case():
    assert closest("QUALTY", ["clip", "Quality"]) == "Quality"
    assert closest("beauty", ["clip", "nsfw"]) == "" == closest("x", [])
    assert closest("x" * 100_000, ["x"]) == ""


def test_all_names_are_reported_as_well():
    assert did_you_mean("imags", ["pairs", "images"]) == "did you mean images? known: pairs, images"
    assert did_you_mean("a", iter(["pairs"]), "there are: ") == "there are: pairs"
    assert did_you_mean("a", []) == "known: none"
