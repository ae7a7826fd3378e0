"""Backup, restore and upgrade of the embedded server, with its real programs.

POSTGRES_BIN selects the server that is backed up. A restore takes the installed one, PostgreSQL 18.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pytest
from conftest import REPO, given_binaries
from support.bundles import arrays_and_labels, publish_bundle
from support.tflite_models import fake_model

import backup
import embedded
import postgres_programs
import upgrade
from installation import LOGIN, BackupError, Command, Database

BOTH = "SELECT (SELECT count(*) FROM ml.input), (SELECT count(*) FROM ml.prediction)"
FAST = {"fsync": "off", "shared_buffers": "16MB"}
Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Home:
    """An installation: the state of its server, its models and its records."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state"

    def environment(self) -> dict[str, str]:
        folders = {"PYPREDICT_MODELS": str(self.root / "models"), "PYML_RECORD": str(self.root / "wandb")}
        return os.environ | folders

    def words(self, *arguments: str | Path) -> list[str | Path]:
        return [sys.executable, backup.__file__, "--state", self.state, *arguments]

    def backup(self, *arguments: str | Path) -> Done:
        return subprocess.run(
            self.words(*arguments), env=self.environment(), capture_output=True, text=True, timeout=200, check=False
        )

    def pypredict(self, server: embedded.Server, *arguments: str | Path, user: str = "pypredict") -> Done:
        command = [Path(sys.executable).with_name("pypredict"), *arguments]
        variables = self.environment() | server.environment(user)
        done = subprocess.run(
            command, cwd=REPO, env=variables, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    def start(self, bin: Path | None = None) -> embedded.Server:
        return embedded.start(self.state, bin=bin, settings=FAST)


def fill(home: Home, bin: Path | None) -> None:
    """Store and predict the test set of a model, and leave the server running."""
    publish_bundle(home.root / "models", serving=fake_model())
    server = home.start(bin)
    home.pypredict(server, "migrate", "--passfile", server.passfile, user="ml_owner")
    home.pypredict(server, "load", home.root / "models/current/toys.json")
    home.pypredict(server, "run", "--until-empty")


def with_bin() -> list[str | Path]:
    """Give the options that name the programs of the server which is backed up."""
    return [word for bin in [given_binaries()] if bin for word in ("--bin", bin)]


def query(server: embedded.Server, sql: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(server.url())) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def counts(server: embedded.Server) -> dict[object, Any]:
    """Count the rows of each table."""
    tables = [name for (name,) in query(server, "SELECT tablename FROM pg_tables WHERE schemaname = 'ml'")]
    return {name: query(server, f"SELECT count(*) FROM ml.{name}")[0][0] for name in tables}


def files_below(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """An installation with 30 predictions, whose server runs."""
    made = Home(tmp_path_factory.mktemp("home"))
    record = made.root / "wandb/wandb/offline-run-1"
    record.mkdir(parents=True)
    (record / "run-1.wandb").write_bytes(b"record")
    arrived = made.root / "wandb/wandb/run-2"
    arrived.mkdir()
    (arrived / "run-2.wandb").write_bytes(b"arrived")
    (arrived / "arrived.json").write_text("{}")
    try:
        fill(made, given_binaries())
        yield made
    finally:
        embedded.destroy(made.state)


@pytest.fixture(scope="module")
def saved(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it; tests do not change it."""
    directory = tmp_path_factory.mktemp("backups") / "first"
    done = home.backup(*with_bin(), "backup", directory)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Home]:
    yield Home(tmp_path / "empty")
    embedded.destroy(tmp_path / "empty/state")


def test_a_restored_backup_has_equal_counts_and_predictions(home: Home, saved: Path, empty: Home) -> None:
    done = empty.backup("restore", saved)
    assert done.returncode == 0, done.stderr
    assert "30 of 30 predictions repeated bit for bit" in done.stderr
    before, after = counts(home.start(given_binaries())), counts(empty.start())
    assert after == before
    assert after["prediction"] == 30


def test_a_restored_installation_predicts_further_inputs(saved: Path, empty: Home) -> None:
    assert empty.backup("restore", saved).returncode == 0
    server = empty.start()
    arrays, _ = arrays_and_labels(5, seed=3)
    np.save(empty.root / "more.npy", arrays)
    empty.pypredict(server, "load", empty.root / "more.npy", "--dataset", "toys")
    empty.pypredict(server, "run", "--until-empty")
    assert query(server, "SELECT count(*) FROM ml.prediction") == [(35,)]
    assert query(server, "SELECT * FROM ml.integrity") == []


def test_own_roles_come_back_with_their_rights(home: Home, tmp_path: Path, empty: Home) -> None:
    server = home.start(given_binaries())
    query(server, "CREATE ROLE \"a student\" LOGIN PASSWORD 'words' IN ROLE ml_reader")
    query(server, 'GRANT SELECT ON ml.ping TO "a student"')
    assert home.backup(*with_bin(), "backup", tmp_path / "backup").returncode == 0
    assert "SCRAM" not in (tmp_path / "backup/roles.sql").read_text()
    assert empty.backup("restore", tmp_path / "backup").returncode == 0
    rights = (
        "SELECT pg_has_role('a student', 'ml_reader', 'member'), has_table_privilege('a student', 'ml.ping', 'SELECT')"
    )
    assert query(empty.start(), rights) == [(True, True)]


SETTINGS = """
    ALTER DATABASE ml SET search_path = ml, public;
    ALTER DATABASE ml SET work_mem = '7MB';
    CREATE ROLE "the guest" LOGIN PASSWORD 'words';  -- pragma: allowlist secret
    ALTER ROLE "the guest" IN DATABASE ml SET statement_timeout = '9s';
    REVOKE TEMPORARY ON DATABASE ml FROM PUBLIC;
    GRANT CREATE, CONNECT ON DATABASE ml TO "the guest" WITH GRANT OPTION;
"""
SETTINGS_OF_ML = r"""
    SELECT coalesce(rolname::text, ''), setconfig::text FROM pg_db_role_setting
        JOIN pg_database d ON d.oid = setdatabase LEFT JOIN pg_roles r ON r.oid = setrole WHERE datname = 'ml'
    UNION ALL SELECT 'right', unnest(datacl)::text FROM pg_database WHERE datname = 'ml'
    ORDER BY 1, 2"""


def test_settings_and_rights_of_the_database_come_back(home: Home, tmp_path: Path, empty: Home) -> None:
    server = home.start(given_binaries())
    query(server, SETTINGS)
    before = query(server, SETTINGS_OF_ML)
    try:
        assert home.backup(*with_bin(), "backup", tmp_path / "backup").returncode == 0
    finally:
        query(server, "ALTER DATABASE ml RESET ALL; GRANT TEMPORARY ON DATABASE ml TO PUBLIC")
        query(server, 'REVOKE ALL ON DATABASE ml FROM "the guest"; DROP ROLE "the guest"')
    done = empty.backup("restore", tmp_path / "backup")
    assert done.returncode == 0, done.stderr
    assert query(empty.start(), SETTINGS_OF_ML) == before
    assert len(before) > 3


def test_models_and_records_come_back_byte_for_byte(home: Home, saved: Path, empty: Home) -> None:
    assert empty.backup("restore", saved).returncode == 0
    assert files_below(empty.root / "models") == files_below(home.root / "models")
    assert files_below(empty.root / "wandb") == {"wandb/offline-run-1/run-1.wandb": b"record"}


def test_a_backup_is_private_and_sha256sum_can_check_it(saved: Path) -> None:
    assert saved.stat().st_mode & 0o777 == 0o700
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=saved, check=False)
    assert done.returncode == 0


def test_one_flipped_byte_is_refused(saved: Path, tmp_path: Path, empty: Home) -> None:
    damaged = shutil.copytree(saved, tmp_path / "damaged")
    flip(damaged / "database.dump", 0.5)
    assert_refused(empty, damaged, "is damaged: database.dump has changed; use another backup")


@pytest.mark.parametrize("place", [0, 0.5, 1], ids=["first", "middle", "last"])
def test_a_flipped_byte_in_any_file_is_refused(saved: Path, tmp_path: Path, place: float) -> None:
    damaged = shutil.copytree(saved, tmp_path / "damaged")
    for name in files_below(saved):
        flip(damaged / name, place)
        with pytest.raises(BackupError, match="is damaged"):
            backup.check_backup(damaged)
        flip(damaged / name, place)
    backup.check_backup(damaged)


def flip(path: Path, place: float) -> None:
    """Change one bit of a file; place: from 0, the first byte, to 1, the last."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def assert_refused(empty: Home, directory: Path, reason: str) -> None:
    """Check that a restore ends with one sentence, before it makes anything."""
    done = empty.backup("restore", directory)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert reason in done.stderr
    assert not empty.root.exists()


def test_a_missing_or_added_file_is_refused(saved: Path, tmp_path: Path, empty: Home) -> None:
    changed = shutil.copytree(saved, tmp_path / "changed")
    (changed / "records/more").write_text("more")
    assert_refused(empty, changed, "records/more was added")
    (changed / "records/more").unlink()
    (changed / "models/bundles/toy/model.tflite").unlink()
    assert_refused(empty, changed, "models/bundles/toy/model.tflite is missing")


def test_a_link_in_a_backup_is_refused(saved: Path, tmp_path: Path, empty: Home) -> None:
    changed = shutil.copytree(saved, tmp_path / "changed")
    (changed / "roles.sql").unlink()
    (changed / "roles.sql").symlink_to(saved / "roles.sql")
    assert_refused(empty, changed, "holds 'roles.sql', and a backup holds plain files only")


def test_a_foreign_directory_is_refused(tmp_path: Path, empty: Home) -> None:
    (tmp_path / "note").write_text("mine")
    assert_refused(empty, tmp_path, "is no backup of this project")
    assert_refused(empty, tmp_path / "nothing", "is no backup of this project")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [('"format": 1', '"format": 2', "a format that"), ('"0.1.0"', '"9.9.9"', "schema revision 9.9.9")],
)
def test_a_newer_backup_is_refused(saved: Path, tmp_path: Path, empty: Home, old: str, new: str, reason: str) -> None:
    newer = shutil.copytree(saved, tmp_path / "newer")
    text = (newer / "backup.json").read_text()
    assert old in text
    (newer / "backup.json").write_text(text.replace(old, new))
    write_sums(newer)
    assert_refused(empty, newer, reason)


def write_sums(directory: Path) -> None:
    """Write the hashes of a backup that was changed."""
    sums = backup.hash_files(directory, "SHA256SUMS")
    (directory / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def test_a_backup_of_a_newer_server_is_refused(saved: Path, tmp_path: Path, empty: Home) -> None:
    newer = shutil.copytree(saved, tmp_path / "newer")
    about = json.loads((newer / "backup.json").read_text())
    (newer / "backup.json").write_text(json.dumps(about | {"postgres": 99}))
    write_sums(newer)
    done = empty.backup("restore", newer)
    assert done.returncode == 1
    assert f"restore: {newer} needs PostgreSQL 99 or newer, and the server is 18; use a newer one" in done.stderr
    assert not (empty.root / "models").exists()


def test_an_installation_that_is_not_empty_is_refused(saved: Path, empty: Home) -> None:
    assert empty.backup("restore", saved).returncode == 0
    before = files_below(empty.root / "models")
    done = empty.backup("restore", saved)
    assert done.returncode == 1
    assert "the installation is not empty (it holds current/toys.json)" in done.stderr
    shutil.rmtree(empty.root / "models")
    shutil.rmtree(empty.root / "wandb")
    assert "its database holds tables" in empty.backup("restore", saved).stderr
    assert before
    assert not (empty.root / "models").exists()


def test_a_backup_is_never_overwritten(home: Home, saved: Path) -> None:
    before = files_below(saved)
    done = home.backup(*with_bin(), "backup", saved)
    assert done.returncode == 1
    assert f"backup: {saved} exists already; give DIR a new name, a backup is never overwritten" in done.stderr
    assert files_below(saved) == before


def test_a_bundle_that_is_not_on_the_volume_is_named(home: Home, tmp_path: Path) -> None:
    aside = (home.root / "models/bundles/toy").rename(home.root / "aside")
    try:
        done = home.backup(*with_bin(), "backup", tmp_path / "backup")
    finally:
        aside.rename(home.root / "models/bundles/toy")
    assert done.returncode == 1
    assert "the database names the bundle toy, and the models volume has no toy/manifest.json" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_with_a_damaged_manifest_is_named(home: Home, tmp_path: Path) -> None:
    manifest = home.root / "models/bundles/toy/manifest.json"
    whole = manifest.read_bytes()
    try:
        for damaged in (b"", whole[:-9], b"[]", b"\xff"):
            manifest.write_bytes(damaged)
            done = home.backup(*with_bin(), "backup", tmp_path / "backup")
            sentence = (
                "backup: the database names the bundle toy, and its manifest.json on the models volume is damaged"
            )
            assert done.returncode == 1
            assert done.stderr.splitlines()[-1].startswith(sentence), done.stderr
    finally:
        manifest.write_bytes(whole)
    assert list(tmp_path.iterdir()) == []


def test_a_record_whose_name_is_not_utf8_comes_back(home: Home, tmp_path: Path, empty: Home) -> None:
    record = home.root / "wandb/wandb/offline-run-1" / os.fsdecode(b"caf\xe9")
    record.write_bytes(b"latin")
    try:
        done = home.backup(*with_bin(), "backup", tmp_path / "backup")
    finally:
        record.unlink()
    assert done.returncode == 0, done.stderr
    assert empty.backup("restore", tmp_path / "backup").returncode == 0
    assert (empty.root / "wandb/wandb/offline-run-1" / record.name).read_bytes() == b"latin"
    shutil.rmtree(empty.root / "models")
    done = empty.backup("restore", tmp_path / "backup")
    assert "the installation is not empty (it holds wandb/offline-run-1/caf" in done.stderr


@contextmanager
def backup_at_work(home: Home, server: embedded.Server, target: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a backup; yield when its dump has its snapshot and waits for a lock on ml.ping. Unlock at the end."""
    words = home.words(*with_bin(), "backup", target)
    with closing(psycopg2.connect(server.url())) as locking, locking.cursor() as cursor:
        cursor.execute("LOCK TABLE ml.ping IN ACCESS EXCLUSIVE MODE")
        process = subprocess.Popen(words, env=home.environment(), stderr=subprocess.DEVNULL, start_new_session=True)
        while query(server, "SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]:
            assert process.poll() is None
        yield process
    process.wait()


def test_a_killed_backup_leaves_no_directory_under_its_name(home: Home, tmp_path: Path) -> None:
    target = tmp_path / "backups/killed"
    with backup_at_work(home, home.start(given_binaries()), target) as process:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert [path.name[:8] for path in target.parent.iterdir()] == [".backup-"]
    assert home.backup(*with_bin(), "backup", target).returncode == 0


def test_ctrl_c_ends_a_backup_with_130_and_leaves_nothing(home: Home, tmp_path: Path) -> None:
    with backup_at_work(home, home.start(given_binaries()), tmp_path / "backup") as process:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_the_service_predicts_during_a_backup(home: Home, tmp_path: Path, empty: Home) -> None:
    server = home.start(given_binaries())
    (before,) = query(server, BOTH)
    np.save(home.root / "new.npy", arrays_and_labels(200, seed=7)[0])
    with backup_at_work(home, server, tmp_path / "backup") as process:
        home.pypredict(server, "load", home.root / "new.npy", "--dataset", "toys")
        home.pypredict(server, "run", "--until-empty")
        (after,) = query(server, BOTH)
        assert process.poll() is None
    assert process.returncode == 0
    done = empty.backup("restore", tmp_path / "backup")
    assert "ml.integrity is empty" in done.stderr
    assert query(empty.start(), BOTH) == [before]  # the snapshot is older than the load
    assert [int(str(new)) - int(str(old)) for old, new in zip(before, after, strict=True)] == [200, 200]


def test_backup_without_a_database_says_so(empty: Home, tmp_path: Path) -> None:
    done = empty.backup("backup", tmp_path / "backup")
    assert (done.returncode, done.stderr) == (
        1, f"backup: there is no database in {empty.state} yet; `make run` makes one\n",
    )  # fmt: skip


def test_backup_stops_the_server_that_it_started(home: Home, tmp_path: Path) -> None:
    embedded.stop(home.state)
    assert home.backup(*with_bin(), "backup", tmp_path / "backup").returncode == 0
    assert not embedded.status(home.state)[0]


class ShortDatabase(Database):
    """A database that loses one row while it is restored."""

    def restore_dump(self) -> Command:
        words = super().restore_dump().words
        delete = self.program("psql", *LOGIN, "--dbname=ml", "--command=DELETE FROM public.note").words
        return Command(["sh", "-ec", f"{shlex.join(map(str, words))}; {shlex.join(map(str, delete))}"], self.variables)


def test_a_copy_that_lacks_one_row_is_refused(home: Home, empty: Home) -> None:
    server = home.start(given_binaries())
    query(server, "CREATE TABLE public.note AS SELECT 1 AS one")
    programs = postgres_programs.find_binaries(None)
    source = Database(programs, server.environment("ml_owner"))
    empty.state.mkdir(mode=0o700, parents=True)
    shutil.copy2(home.state / "pgpass", empty.state / "pgpass")  # the copy takes the passwords of the source
    target = ShortDatabase(programs, empty.start().environment("ml_owner"))
    try:
        with pytest.raises(BackupError, match="the copy has other numbers of rows than the database"):
            upgrade.copy_database(source, target)
        target.sql("INSERT INTO public.note VALUES (1)")
        assert target.sql(upgrade.COUNTS) == source.sql(upgrade.COUNTS)
    finally:
        query(server, "DROP TABLE public.note")


# Upgrade, with PostgreSQL 12


@pytest.fixture(scope="module")
def programs12(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of PostgreSQL 12: POSTGRES_BIN, or those beside the repository."""
    given, unpack = given_binaries(), REPO.parent / "shared/docker/unpack-postgres.sh"
    if given and postgres_programs.major_version(given) == "12":
        return given
    if not unpack.exists():
        pytest.skip("NOT TESTED: the upgrade, because POSTGRES_BIN does not name the programs of PostgreSQL 12")
    directory = tmp_path_factory.mktemp("postgres12")
    subprocess.run([unpack, directory], check=True, capture_output=True)
    return directory / "bin"


@pytest.fixture
def old(tmp_path: Path, programs12: Path) -> Iterator[Home]:
    """An installation on PostgreSQL 12 with 30 predictions, stopped."""
    made = Home(tmp_path / "old")
    try:
        fill(made, programs12)
        embedded.stop(made.state)
        yield made
    finally:
        embedded.destroy(made.state)


def cluster(home: Home) -> Path:
    return (home.state / "cluster").resolve()


def test_upgrade_moves_the_database_to_18_and_keeps_the_old_one(old: Home, programs12: Path) -> None:
    server = old.start(programs12)
    before, port = counts(server), server.port
    done = old.backup("upgrade")
    assert done.returncode == 0, done.stderr
    assert "30 of 30 predictions repeated bit for bit" in done.stderr
    server = old.start()
    assert (counts(server), server.port) == (before, port)
    assert query(server, "SHOW server_version_num")[0] >= ("180000",)
    assert query(server, "SHOW default_transaction_read_only") == [("off",)]
    assert (cluster(old) / "data-12/PG_VERSION").read_text() == "12\n"


def test_the_old_data_can_be_put_back_by_hand(old: Home, programs12: Path) -> None:
    before = counts(old.start(programs12))
    assert old.backup("upgrade").returncode == 0
    embedded.stop(old.state)
    shutil.rmtree(cluster(old) / "data")
    (cluster(old) / "data-12").rename(cluster(old) / "data")
    server = old.start(programs12)
    assert counts(server) == before
    assert query(server, "SHOW server_version_num")[0] < ("130000",)


def test_remove_old_removes_and_a_later_upgrade_has_nothing_to_do(old: Home) -> None:
    assert old.backup("upgrade").returncode == 0
    assert old.backup("remove-old").returncode == 0
    assert sorted(path.name for path in cluster(old).iterdir()) == ["data", "server.log"]
    again = old.backup("upgrade")
    assert (again.returncode, again.stderr) == (
        0, "the database is one of PostgreSQL 18 already; there is nothing to do\n",
    )  # fmt: skip


def test_an_upgrade_killed_after_its_renames_is_checked_by_the_next_one(old: Home) -> None:
    with subprocess.Popen(old.words("upgrade"), env=old.environment(), start_new_session=True) as process:
        while not ((cluster(old) / "data-12").exists() and (cluster(old) / "data").exists()):
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    done = old.backup("upgrade")
    assert done.returncode == 0, done.stderr
    assert "30 of 30 predictions repeated bit for bit" in done.stderr


def test_an_upgrade_beside_kept_data_is_refused(old: Home) -> None:
    before = files_below(cluster(old) / "data")
    (cluster(old) / "data-12").mkdir()
    done = old.backup("upgrade")
    kept = cluster(old) / "data-12"
    assert (done.returncode, done.stderr) == (
        1, f"upgrade: data of an earlier upgrade are still there ({kept}); run `make remove-old` first\n",
    )  # fmt: skip
    assert files_below(cluster(old) / "data") == before


def test_upgrade_keeps_the_passwords_of_own_roles(old: Home, programs12: Path) -> None:
    query(old.start(programs12), "CREATE ROLE student LOGIN PASSWORD 'words' IN ROLE ml_reader")
    assert old.backup("upgrade").returncode == 0
    server = old.start()
    login = psycopg2.connect(host=server.host, port=server.port, dbname="ml", user="student", password="words")
    with closing(login) as connection:
        assert connection.info.user == "student"


def test_upgrade_keeps_settings_and_rights_of_the_database(old: Home, programs12: Path) -> None:
    server = old.start(programs12)
    query(server, SETTINGS)
    before = query(server, SETTINGS_OF_ML)
    assert old.backup("upgrade").returncode == 0
    assert query(old.start(), SETTINGS_OF_ML) == before


def test_a_killed_upgrade_can_go_on(old: Home, programs12: Path) -> None:
    before = counts(old.start(programs12))
    with subprocess.Popen(old.words("upgrade"), env=old.environment(), start_new_session=True) as process:
        while not (cluster(old) / "data.upgrading/PG_VERSION").exists():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    assert (cluster(old) / "data/PG_VERSION").read_text() == "12\n"
    assert old.backup("upgrade").returncode == 0
    assert counts(old.start()) == before


def test_a_start_finishes_an_upgrade_that_was_killed_between_its_renames(old: Home, programs12: Path) -> None:
    before = counts(old.start(programs12))
    assert old.backup("upgrade").returncode == 0
    (cluster(old) / "data").rename(cluster(old) / "data.upgrading")
    assert counts(old.start()) == before


def test_upgrade_without_the_old_programs_names_them(old: Home) -> None:
    opts = cluster(old) / "data/postmaster.opts"
    opts.write_text(opts.read_text().replace(opts.read_text().split()[0], "/gone/postgres"))
    done = old.backup("upgrade")
    assert (done.returncode, done.stderr) == (
        1, "moving the database from PostgreSQL 12 to 18\n"
        "upgrade: the programs of PostgreSQL 12 are needed; give their directory: POSTGRES_BIN=DIR\n",
    )  # fmt: skip
    assert sorted(path.name for path in cluster(old).iterdir()) == ["data", "server.log"]
