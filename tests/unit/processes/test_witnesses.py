"""Which hosts are told the newest checkpoint, and when: as they come online, and at most once an hour."""

from control_plane.processes.witnesses import EVERY_S, NOTHING_YET_S, Rounds


class Newest:
    """The newest checkpoint, and how often it was asked for."""

    def __init__(self, note: str | None = "note") -> None:
        self.note = note
        self.asked = 0

    async def __call__(self) -> str | None:
        self.asked += 1
        return self.note


async def due(rounds: Rounds, now_s: float) -> list[str]:
    to_configure: dict[str, int] = {}
    await rounds.go(now_s, to_configure, seq=7)
    return sorted(to_configure)


async def test_a_host_is_told_as_it_comes_online_and_an_hour_after_it_was_told() -> None:
    rounds = Rounds(Newest())
    rounds.online("web1", 100.0)

    assert await due(rounds, 100.0) == ["web1"]
    assert await due(rounds, 1_000_000.0) == []  # the message came back: nobody is there
    rounds.online("web1", 200.0)
    assert await due(rounds, 200.0) == ["web1"]
    rounds.told("web1", 200.0)
    assert await due(rounds, 199.0 + EVERY_S) == []
    assert await due(rounds, 200.0 + EVERY_S) == ["web1"]


async def test_one_that_comes_and_goes_is_told_each_time_and_not_more_often_in_between() -> None:
    rounds = Rounds(Newest())
    for at_s in (0.0, 10.0, 20.0):
        rounds.online("web1", at_s)
        assert await due(rounds, at_s) == ["web1"]
        rounds.told("web1", at_s)

    assert await due(rounds, EVERY_S + 10.0) == []
    assert await due(rounds, EVERY_S + 20.0) == ["web1"]


async def test_after_a_restart_all_are_told_soon_but_not_at_once() -> None:
    rounds = Rounds(Newest())
    hostnames = [f"web{n}" for n in range(1000)]
    rounds.restart(hostnames, 0.0)

    parts = [await due(rounds, at_s) for at_s in range(101)]

    assert sorted(name for part in parts for name in part) == sorted(hostnames)
    assert max(map(len, parts)) <= 11


async def test_after_a_restart_of_a_huge_fleet_all_are_told_within_the_hour() -> None:
    rounds = Rounds(Newest())
    rounds.restart([f"web{n}" for n in range(50_000)], 0.0)

    assert len(await due(rounds, EVERY_S)) == 50_000


async def test_what_is_to_be_configured_anyhow_gets_the_checkpoint_too() -> None:
    newest = Newest()
    rounds, to_configure = Rounds(newest), {"db1": 3}

    assert await rounds.go(0.0, to_configure, seq=7) == "note"
    assert to_configure == {"db1": 3}
    assert await rounds.go(0.0, {}, seq=7) is None
    assert newest.asked == 1


async def test_while_there_is_no_checkpoint_nobody_is_told() -> None:
    newest = Newest(None)
    rounds = Rounds(newest)
    rounds.online("web1", 0.0)

    assert await due(rounds, 0.0) == []
    newest.note = "note"
    assert await due(rounds, NOTHING_YET_S) == ["web1"]
    rounds = Rounds()
    rounds.online("web1", 0.0)
    assert await due(rounds, 0.0) == []
