from rasterloom.recipe.loader import load_recipe

HEAD = """
corpus: c
workspace: s3://b/w
catalog: {uri: http://h}
sources: [{path: a.csv, caption: text}]
"""


def test_the_digest_knows_neither_where_the_folder_lies_nor_how_fast_it_runs(tmp_path):
    found = []
    for name, more in (("x", ""), ("y", "run: {in_flight: 2}\n"), ("z", "fetch: {retries: 4}\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(HEAD + more)
        found.append(load_recipe(tmp_path / name / "recipe.yaml").digest)
    assert found[0] == found[1] != found[2]
