"""The table of new clients."""

from pipeline.results.new_client_rows import as_columns


def test_a_score_that_not_all_clients_have_is_a_column() -> None:
    rows = [{"client_id": 7}, {"client_id": 8, "retrieved": 1.0}, {"client_id": 9, "copied": 0.5}]
    assert as_columns(rows) == {
        "client_id": [7, 8, 9],
        "retrieved": [None, 1.0, None],
        "copied": [None, None, 0.5],
    }
    assert as_columns([]) == {}
