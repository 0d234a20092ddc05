"""The PostgreSQL fixture itself: Optuna works on it, databases are apart, it comes back after a crash."""

from __future__ import annotations

import optuna
import pytest
from sqlalchemy.exc import OperationalError

from tests.servers.postgres import PostgresServer


def test_optuna_keeps_a_study_through_a_crash_of_the_server(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    study = optuna.create_study(storage=postgres_url, study_name="kept")
    study.tell(study.ask(), 0.5)
    postgres_server.stop("immediate")
    try:
        with pytest.raises(OperationalError):
            optuna.load_study(storage=postgres_url, study_name="kept")
    finally:
        postgres_server.start()
    assert optuna.load_study(storage=postgres_url, study_name="kept").best_value == 0.5


def test_every_test_gets_an_empty_database(postgres_server: PostgresServer, postgres_url: str) -> None:
    optuna.create_study(storage=postgres_url, study_name="mine")
    assert optuna.get_all_study_names(postgres_server.database()) == []
