import datasets

from rasterloom.sources.readers.datasets_compat import with_features


def test_features_of_a_streamed_text_file_are_read_off_it(tmp_path):
    (tmp_path / "a.csv").write_text("url,caption\nhttp://a,one\nhttp://b,two\n")
    streamed = datasets.load_dataset("csv", data_files=str(tmp_path / "a.csv"), split="train", streaming=True)
    assert streamed.features is None
    known = with_features(streamed)
    assert list(known.features) == ["url", "caption"]
    assert [row["caption"] for row in known] == ["one", "two"]
    assert with_features(known) is known
