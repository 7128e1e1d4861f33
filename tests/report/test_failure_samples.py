from rasterloom.report.failure_samples import failures


def test_failures_are_listed_by_class_with_host_and_detail(tables) -> None:
    found = {f.error: f for f in failures(tables)}
    assert {name: f.rows for name, f in found.items()} == {
        "http_4xx": 3, "blocked_scheme": 1, "dns": 1, "timeout": 1
    }  # fmt: skip
    gone = found["http_4xx"]
    assert (gone.meaning, gone.hosts, len(gone.sample)) == ("refused or gone", 1, 3)
    assert {row.host for row in gone.sample} == {"gone.example"}
    assert {row.detail for row in gone.sample} == {"HTTP status 404"}
    assert found["blocked_scheme"].sample[0].host == ""


def test_a_login_in_a_url_is_not_shown(tables) -> None:
    gone = failures(tables)[0]
    assert {row.url for row in gone.sample} == {f"http://…@gone.example/{i}" for i in range(3)}
