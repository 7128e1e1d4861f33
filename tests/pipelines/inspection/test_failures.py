def test_a_reason_that_there_is_not_is_said(undisturbed, rasterloom):
    recipe = undisturbed.recipe_file
    for form in ("table", "json"):
        code, out, err = rasterloom("failures", recipe, "--reason", "http_4x", "--format", form)
        assert (code, out) == (2, "") and "--reason http_4x: no such reason; did you mean http_4xx?" in err
    assert rasterloom("failures", recipe, "--reason", "tls") == (0, "No pair was dropped for tls.\n", "")
    found = rasterloom("failures", recipe, "--reason", "http_4xx", "--host", "example.org")
    assert found == (0, "No pair of example.org was dropped for http_4xx.\n", "")
