from dataclasses import replace

from rasterloom.storage.store import Store
from rasterloom.versions.corpus import Corpus


def test_what_is_secret_of_a_catalog_comes_from_variables(s3, seaweedfs, monkeypatch):
    known = dict(seaweedfs.catalog)
    monkeypatch.setenv("PYICEBERG_CATALOG__RASTERLOOM__CREDENTIAL", known.pop("credential"))
    corpus = Corpus("secretly", Store(f"{s3}/secretly"), tuple(known.items()))
    assert isinstance(corpus.catalog.list_namespaces(), list)
    monkeypatch.setenv("PYICEBERG_CATALOG__RASTERLOOM__URI", known.pop("uri"))
    assert isinstance(
        replace(corpus, catalog_properties=tuple(known.items())).catalog.list_namespaces(), list
    )
