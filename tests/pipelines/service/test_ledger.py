"""Rows are the record: one job for the same labels, leases that end, fair order; on both databases."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import mypy.api
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.postgres import Postgres
from pipelines.service.ask import Ask, job_id, label_set_of, views_of
from pipelines.service.config import RaySection, ServiceConfig, read_config
from pipelines.service.database.leases import Claim, Leases, fair_order, load, who_gives_way
from pipelines.service.database.ledger import Ledger, Queries, Who, missing
from pipelines.service.database.records import Job
from pipelines.service.database.tables import Probe, database_clock, open_database
from pipelines.service.database.tokens import Tokens
from pipelines.service.jobs.webhooks import check_webhook
from teacher_cache.errors import InputError

LEASE_S = 10.0


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


class Office:
    """A database with two users, and what is done with it."""

    def __init__(self, url: str, config: ServiceConfig) -> None:
        self.engine, self.clock, self.config = open_database(url), Clock(), config
        self.ledger, self.queries = Ledger(self.engine, self.clock), Queries(self.engine, self.clock)
        self.leases = Leases(self.engine, self.clock, LEASE_S, {"vision": 2.0, "speech": 1.0})
        self.tokens = Tokens(self.engine, self.clock)
        self.users = {}
        for name, team in (("rita", "vision"), ("sam", "speech")):
            _, token = self.tokens.make(name, team, ["request"], days=1, max_requests=5, max_gpu_hours=10)
            user = self.tokens.user(token)
            assert user is not None
            self.users[name] = user

    def ask(self, user: str, **changes: Any) -> Job:
        ask = Ask(**{"data": "small", "teacher": "regnety", "views": "0:2", **changes})
        return self.ledger.submit(
            ask, label_set_of(ask, self.config), views_of(ask, self.config), self.users[user]
        )

    def found(self, job: Job) -> Job:
        found = self.queries.job(job.id)
        assert found is not None
        return found

    def state(self, job: Job) -> str:
        return self.found(job).state

    def planned(self, user: str, hours: float = 0.0, *, is_costly: bool = False, **changes: Any) -> Job:
        job = self.ask(user, **changes)
        leased = self.leases.claim(f"planner of {job.id}")
        assert leased is not None
        assert leased.job.id == job.id
        self.leases.plan(leased, {"gpu_hours": hours}, hours, is_costly=is_costly)
        return job


@pytest.fixture
def config(data: str, tmp_path: Path) -> ServiceConfig:
    file = tmp_path / "service.yaml"
    file.write_text(
        f"url: https://labels.example.org\narchives: archives\ndata: {{small: {data}}}\n"
        "teachers: {regnety: {teacher: regnety_002, pretrained: false}}\n"
        "teams: {vision: {share: 2}, speech: {}}\nviews_per_unit: 2\n"
    )
    return read_config(str(file))


@pytest.fixture(params=["sqlite", "postgresql"])
def office(request: pytest.FixtureRequest, config: ServiceConfig, tmp_path: Path) -> Iterator[Office]:
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    office = Office(server.new_database() if server else f"sqlite:///{tmp_path}/service.db", config)
    yield office
    office.engine.dispose()


def test_the_same_labels_are_one_job(office: Office) -> None:
    first, second = office.ask("rita"), office.ask("sam", views="0:1")
    assert first.id == second.id == office.ask("rita").id
    assert [asker.name for asker in office.queries.askers(first.id)] == ["rita", "sam"]
    assert office.ask("rita", topk=5).id != first.id


def test_one_job_at_a_time_writes_an_archive(office: Office) -> None:
    office.ask("rita"), office.ask("rita", views="0:4")
    assert office.leases.claim("a") is not None
    assert office.leases.claim("b") is None
    office.ask("rita", topk=3)
    assert office.leases.claim("b") is not None


def test_a_lease_ends_and_only_its_holder_settles(office: Office) -> None:
    job = office.planned("rita")
    dead = office.leases.claim("dead")
    assert dead is not None
    office.clock.now_s += LEASE_S / 2
    assert office.leases.renew(dead, {"units_done": 1}) is not None
    office.clock.now_s += LEASE_S * 0.9
    assert office.leases.claim("alive") is None
    office.clock.now_s += LEASE_S
    alive = office.leases.claim("alive")
    assert alive is not None
    assert alive.job.attempt == dead.job.attempt + 1
    assert office.leases.renew(dead, None) is None
    assert not office.leases.settle(dead, "done")
    assert office.state(job) == "running"
    assert office.leases.settle(alive, "done")
    assert not office.leases.settle(alive, "done")
    found = office.queries.job(job.id)
    assert found is not None
    assert (found.state, found.times_done) == ("done", 1)


def test_many_servers_that_claim_at_once_get_different_jobs(office: Office) -> None:
    jobs = {office.ask("rita", topk=k).id for k in range(1, 5)}
    claimed: list[Any] = []

    def claim(number: int) -> None:
        for turn in range(8):
            claimed.append(office.leases.claim(f"{number}-{turn}"))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = [leased.job.id for leased in claimed if leased is not None]
    assert sorted(got) == sorted(jobs)


def test_dear_jobs_and_those_above_a_tokens_hours_wait_for_approval(office: Office) -> None:
    dear = office.planned("rita", 3, is_costly=True, topk=2)
    assert office.state(dear) == "waiting"
    assert office.state(office.planned("rita", 11, topk=3)) == "waiting"
    assert office.state(office.planned("rita", 3)) == "queued"
    running = office.leases.claim("a")
    assert running is not None
    assert office.state(office.planned("rita", 8, topk=4)) == "waiting", "3 hours are under way, of 10"
    assert office.ledger.act("approve", dear.id, office.users["sam"])
    assert office.state(dear) == "queued"
    with pytest.raises(InputError, match="cannot be approved"):
        office.ledger.act("approve", dear.id, office.users["sam"])
    assert office.ledger.act("approve", "0" * 24, office.users["sam"]) is None


def test_a_token_has_a_number_of_requests(office: Office) -> None:
    for k in range(1, 6):
        office.ask("rita", topk=k)
    office.ask("rita", topk=1)
    with pytest.raises(InputError, match="5 of its 5 requests in 30 days"):
        office.ask("rita", topk=6)
    office.ask("sam", topk=6)


def test_cancel_and_retry(office: Office) -> None:
    waiting = office.planned("rita", 99)
    office.ledger.act("cancel", waiting.id, office.users["rita"])
    assert office.state(waiting) == "cancelled"
    office.ledger.act("retry", waiting.id, office.users["rita"])
    assert office.state(waiting) == "planning"
    leased = office.leases.claim("a")
    assert leased is not None
    office.ledger.act("cancel", waiting.id, office.users["rita"])
    signals = office.leases.renew(leased, None)
    assert signals is not None
    assert signals.is_cancelled
    assert office.leases.settle(leased, "cancelled")
    assert office.ask("sam").state == "planning"
    actions = [line["action"] for line in office.queries.audit(100)]
    assert actions == ["submit", "cancel", "retry", "cancel", "submit", "make token", "make token"]


def test_a_cancel_is_not_lost_and_a_new_request_takes_it_back(office: Office) -> None:
    job = office.ask("rita")
    leased = office.leases.claim("a")
    assert leased is not None
    office.ledger.act("cancel", job.id, office.users["rita"])
    office.leases.plan(leased, None, 0.0, is_costly=True)
    assert office.state(job) == "cancelled"
    again = office.planned("sam")
    office.ledger.act("cancel", again.id, office.users["sam"])
    assert office.state(again) == "cancelled"
    office.ask("sam")
    leased = office.leases.claim("b")
    assert leased is not None
    office.ledger.act("cancel", job.id, office.users["sam"])
    office.ask("sam")
    signals = office.leases.renew(leased, None)
    assert signals is not None
    assert not signals.is_cancelled


def test_a_new_attempt_is_its_askers(office: Office) -> None:
    """Sam cancels while the job runs, and Rita asks for the same: Sam pays for nothing that Rita wants."""
    job = office.planned("sam")
    leased = office.leases.claim("a")
    assert leased is not None
    office.ask("rita", follow=True)
    assert not office.found(job).is_followed, "another team does not change a job that runs"
    office.ledger.act("cancel", job.id, office.users["sam"])
    office.ask("rita")
    signals = office.leases.renew(leased, None)
    assert signals is not None
    assert signals.is_cancelled
    assert office.leases.settle(leased, "cancelled", gpu_hours=2.0)
    found = office.found(job)
    assert (found.state, found.team, found.plan, found.approved_by) == ("planning", "vision", None, None)


def test_a_revoked_or_expired_token_begins_nothing(office: Office) -> None:
    queued, shared, running = (office.ask("rita", topk=k) for k in (2, 3, 4))
    office.ask("sam", topk=3)
    leases = [leased for number in range(3) if (leased := office.leases.claim(f"{number}")) is not None]
    (leased,) = (each for each in leases if each.job.id == running.id)
    for each in leases:
        if each is not leased:
            office.leases.settle(each, "queued")
    assert office.tokens.revoke(office.users["rita"].token or "", office.users["sam"])
    assert office.state(queued) == "cancelled"
    assert (office.found(shared).team, office.state(shared)) == ("speech", "queued")
    signals = office.leases.renew(leased, None)
    assert signals is not None
    assert signals.is_cancelled
    assert office.leases.settle(leased, "queued")
    assert office.state(running) == "cancelled"
    other = office.leases.claim("b")
    assert other is not None
    assert (other.job.id, other.job.team) == (shared.id, "speech")
    office.leases.settle(other, "queued")
    office.clock.now_s += 2 * 86400
    assert office.leases.claim("c") is None, "sam's token has expired"
    assert office.queries.audit(1)[0]["action"] == "revoke token"


def test_the_same_user_takes_a_cancel_back_after_it_was_seen(office: Office) -> None:
    job = office.planned("sam")
    leased = office.leases.claim("a")
    assert leased is not None
    office.ledger.act("cancel", job.id, office.users["sam"])
    assert office.leases.renew(leased, None)
    office.ask("sam")
    assert office.leases.settle(leased, "cancelled")
    assert office.state(job) == "planning"


def test_jobs_of_an_expired_token_hold_no_one_up(office: Office) -> None:
    waiting, taken, running = (office.ask("rita", topk=k) for k in (2, 3, 4))
    leases = [leased for number in range(3) if (leased := office.leases.claim(f"{number}")) is not None]
    for leased in leases:
        if leased.job.id == running.id:
            office.leases.plan(leased, None, 0.0, is_costly=False)
    assert office.leases.claim("runs") is not None
    for leased in leases:
        if leased.job.id != running.id:
            office.leases.settle(leased, "queued")
    office.clock.now_s += 86400 + LEASE_S
    _, token = office.tokens.make("new", "speech", ["request"], days=1, max_requests=9, max_gpu_hours=9)
    new = office.tokens.user(token)
    assert new is not None
    office.users["new"] = new
    assert office.ask("new", topk=3).team == "speech", "an open job of an expired token is taken over"
    office.leases.end_expired()
    assert (office.state(waiting), office.state(running)) == ("cancelled", "running")
    leased = office.leases.claim("b")
    assert leased is not None
    assert leased.job.id in (taken.id, running.id)
    office.ledger.act("retry", waiting.id, new)
    assert office.found(waiting).token == new.token


def test_servers_with_other_leases_do_not_steal(office: Office) -> None:
    office.planned("rita")
    patient = Leases(office.engine, office.clock, 120.0, {})
    assert patient.claim("patient") is not None
    assert office.leases.claim("hasty") is None


def test_plans_that_are_settled_at_once_see_each_other(office: Office) -> None:
    jobs = [office.ask("rita", topk=k) for k in range(1, 5)]
    leases = [office.leases.claim(f"server {number}") for number in range(4)]
    plan = {"gpu_hours": 9.0}
    threads = [
        threading.Thread(target=office.leases.plan, args=(leased, plan, 9.0), kwargs={"is_costly": False})
        for leased in leases
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(office.state(job) for job in jobs) == ["queued", "waiting", "waiting", "waiting"]


def test_requests_that_are_made_at_once_do_not_pass_the_limit(office: Office) -> None:
    refused: list[str] = []

    def ask(k: int) -> None:
        try:
            office.ask("rita", topk=k)
        except InputError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(1, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 5
    assert len(office.queries.jobs(None, 100)) == 5


def test_a_plan_is_charged(office: Office) -> None:
    job = office.ask("rita")
    leased = office.leases.claim("a")
    assert leased is not None
    office.leases.plan(leased, {"gpu_hours": 1.0}, 1.0, is_costly=False, spent_hours=0.25)
    assert office.found(job).gpu_hours == 0.25
    assert office.queries.hours() == {"vision": 0.25}


def test_a_lease_by_a_wrong_clock_is_none(office: Office) -> None:
    job = office.planned("rita")
    office.clock.now_s += 3600
    assert office.leases.claim("a server whose clock is an hour ahead, and dies") is not None
    office.clock.now_s -= 3600
    assert office.leases.claim("b") is not None
    assert office.state(job) == "running"


def test_what_is_lost_is_made_again(office: Office) -> None:
    job = office.planned("rita")
    leased = office.leases.claim("a")
    assert leased is not None
    office.leases.settle(leased, "done")
    assert office.ask("sam").state == "done"
    with pytest.raises(InputError, match="cannot be retried"):
        office.ledger.act("retry", job.id, office.users["rita"])
    ask = Ask(data="small", teacher="regnety", views="0:2")
    labels, views = label_set_of(ask, office.config), views_of(ask, office.config)
    again = office.ledger.submit(ask, labels, views, office.users["sam"], is_lost=True)
    assert (again.state, again.team) == ("planning", "speech")
    leased = office.leases.claim("b")
    assert leased is not None
    office.leases.settle(leased, "done")
    assert office.ledger.act("retry", job.id, office.users["rita"], is_lost=True)


def test_all_servers_of_a_database_have_one_clock(office: Office) -> None:
    now = database_clock(office.engine)
    assert abs(now() - time.time()) < 60
    assert 0 <= now() - now() + 1 <= 1


def test_a_server_is_ready_while_it_can_write(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.service.database.tables._BELIEVED_S", -1.0)
    probe = Probe(office.engine, "here", office.clock)
    assert probe.can_write()
    assert probe.can_write()
    if office.engine.dialect.name == "sqlite":
        (tmp_path / "service.db").rename(tmp_path / "moved.db")
        assert not probe.can_write()
        (tmp_path / "moved.db").rename(tmp_path / "service.db")
        assert probe.can_write()
        with office.engine.begin():
            assert not Probe(office.engine, "there", office.clock).can_write(), "another one writes"


def test_a_label_set_has_the_flags_of_now(office: Office) -> None:
    office.ask("rita")
    teacher = msgspec.structs.replace(office.config.teachers["regnety"], batch_size=3)
    office.config = msgspec.structs.replace(office.config, teachers={"regnety": teacher})
    office.ask("rita", views="2:4")
    leased = office.leases.claim("a")
    assert leased is not None
    assert leased.flags["batch_size"] == 3


def test_kills_are_counted_and_a_retry_forgets_them(office: Office) -> None:
    job = office.ask("rita")
    for number in range(3):
        leased = office.leases.claim(f"dead {number}")
        assert leased is not None
        assert leased.job.kills == number
        office.clock.now_s += LEASE_S * 2
    leased = office.leases.claim("alive")
    assert leased is not None
    office.leases.settle(leased, "failed", error="no")
    office.ledger.act("retry", job.id, office.users["rita"])
    found = office.queries.job(job.id)
    assert found is not None
    assert (found.kills, found.attempt, found.approved_by) == (0, 4, None)


def test_a_job_gives_way_to_a_team_that_used_less(office: Office) -> None:
    long_one = office.planned("rita")
    leased = office.leases.claim("a")
    assert leased is not None
    office.leases.renew(leased, {"gpu_hours": 5.0})
    short = office.planned("sam", topk=2)
    assert office.leases.ask_to_give_way(600) is None
    office.clock.now_s += 601
    assert office.leases.ask_to_give_way(600) == long_one.id
    assert office.leases.ask_to_give_way(600) is None
    office.leases.settle(leased, "queued", gives_way=False, gpu_hours=5.0)
    following = office.leases.claim("b")
    assert following is not None
    assert following.job.id == short.id


def test_what_is_there_is_told_by_rows(office: Office) -> None:
    ask = Ask(data="small", teacher="regnety", views="0:6")
    labels = label_set_of(ask, office.config)
    assert office.queries.found(labels, range(6)) == ([], None)
    office.planned("rita")
    leased = office.leases.claim("a")
    assert leased is not None
    office.leases.settle(leased, "done")
    done, job = office.queries.found(labels, range(6))
    assert (done, job) == ([range(2)], None)
    assert missing(range(6), done) == [2, 3, 4, 5]
    assert office.queries.queue() == {"done": 1}
    assert [job.archive for job in office.queries.jobs(None, 10)] == [labels.archive]


def test_the_id_of_a_job_depends_on_labels_alone(config: ServiceConfig) -> None:
    ask = Ask(data="small", teacher="regnety", views="0:2")
    labels = label_set_of(ask, config)
    slower = msgspec.structs.replace(
        config,
        teachers={"regnety": msgspec.structs.replace(config.teachers["regnety"], batch_size=1, device="cpu")},
        executor=RaySection(dashboard="http://head:8265", max_actors=3),
    )
    assert label_set_of(ask, slower).id == labels.id
    assert label_set_of(ask, slower).flags["num_actors"] == 3
    other = msgspec.structs.replace(
        config,
        teachers={"regnety": msgspec.structs.replace(config.teachers["regnety"], teacher="regnety_004")},
    )
    assert label_set_of(ask, other).id != labels.id
    assert label_set_of(ask, other).archive != labels.archive
    assert job_id(labels, range(2)) != job_id(labels, range(4))
    assert labels.archive.startswith("small/regnety-deit-k10-")


@given(st.integers(0, 50), st.integers(1, 50))
def test_views_are_widened_to_whole_units(first: int, count: int) -> None:
    config = ServiceConfig(
        url="http://x",
        data={},
        archives="a",
        teachers={},
        teams={},
        views_per_unit=4,
    )
    ask = Ask(data="a", teacher="b", views=f"{first}:{first + count}")
    views = views_of(ask, config)
    assert views.start % 4 == views.stop % 4 == 0
    assert views.start <= first < first + count <= views.stop
    assert len(views) < count + 8


teams = st.sampled_from(["vision", "speech", "robots"])
claims = st.lists(
    st.builds(Claim, st.uuids().map(str), teams, st.floats(0, 100), st.floats(0, 100)), max_size=8
)
hours = st.dictionaries(teams, st.floats(0, 100))


@given(claims, hours)
def test_the_fair_order_is_by_load_and_then_by_age(waiting: list[Claim], used: dict[str, float]) -> None:
    shares = {"vision": 2.0}
    order = fair_order(waiting, used, shares)
    assert sorted(claim.id for claim in order) == sorted(claim.id for claim in waiting)
    keys = [(load(claim.team, used, shares), claim.created) for claim in order]
    assert keys == sorted(keys)


@given(claims, claims, hours, st.floats(0, 200))
def test_who_gives_way_is_old_enough_and_used_more(
    running: list[Claim], waiting: list[Claim], used: dict[str, float], now: float
) -> None:
    found = who_gives_way(running, waiting, used, {}, now, 10.0)
    if found is not None:
        assert found in running
        assert now - (found.started or 0) >= 10
        lighter = [job for job in waiting if load(job.team, used, {}) < load(found.team, used, {})]
        assert any(job.team not in {other.team for other in running} for job in lighter)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("url: ftp://x", "url ftp://x"),
        ("listen: nowhere", "listen nowhere"),
        ("views_per_unit: 99", "views_per_unit"),
        ("colour: red", "unknown field `colour`"),
        ("archives: https://example.org/archives", "archives https"),
        ("database: sqlite:///archives/service.db", "inside the folder"),
        ("data: {Bad/Name: x}", "matching regex"),
        ("teams: {}", "teams"),
    ],
)
def test_a_wrong_configuration_is_refused(
    config: ServiceConfig, tmp_path: Path, line: str, message: str
) -> None:
    del config
    file = tmp_path / "service.yaml"
    key = line.partition(":")[0]
    kept = [each for each in file.read_text().splitlines() if not each.startswith(f"{key}:")]
    file.write_text("\n".join([*kept, line]))
    with pytest.raises(InputError, match=message):
        read_config(str(file))


def test_a_database_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError) as error:
        open_database("postgresql+psycopg://ada:secret@127.0.0.1:1/x")
    assert "secret" not in str(error.value)
    with pytest.raises(InputError):
        open_database("nosuch://x")


def test_the_password_of_a_database_may_lie_in_a_file(postgres: Postgres, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    engine = open_database(postgres.new_database(), str(tmp_path / "password"))
    assert engine.url.password == "secret"
    engine.dispose()
    with pytest.raises(InputError, match="No such file"):
        open_database(postgres.new_database(), str(tmp_path / "nothing"))


def test_without_webhooks_none_is_told() -> None:
    with pytest.raises(InputError, match="webhook"):
        check_webhook("https://hooks.example.org/", None)


def test_who_without_a_token_is_the_service() -> None:
    assert Who(None, "service", "").token is None


@pytest.mark.slow
def test_a_misspelt_column_is_an_error_of_the_type_checker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = tmp_path / "reader.py"
    reader.write_text(
        "from pipelines.service.database.records import Job\n\n\n"
        "def right(job: Job) -> str:\n    return job.state\n\n\n"
        "def misspelt(job: Job) -> str:\n    return job.satte\n"
    )
    monkeypatch.chdir(Path(__file__).parents[3])
    records = "pipelines/service/database/records.py"
    alone = ["--config-file=", "--follow-imports=skip", f"--cache-dir={tmp_path / 'cache'}"]
    said, _, code = mypy.api.run([*alone, records, str(reader)])
    errors = [line for line in said.splitlines() if "reader.py" in line]
    assert code == 1
    assert len(errors) == 1
    assert '"Job" has no attribute "satte"' in errors[0]
