"""Who works on a state directory."""

from pathlib import Path

from control_plane.storage.instance import instance


def test_a_process_learns_of_the_one_that_it_succeeds(tmp_path: Path) -> None:
    with instance(tmp_path) as first:
        pass
    with instance(tmp_path) as second:
        pass

    assert first.predecessor is None
    assert second.predecessor == first.owner
    assert second.owner != first.owner


def test_nobody_succeeds_a_process_that_lives(tmp_path: Path) -> None:
    with instance(tmp_path) as first, instance(tmp_path) as beside:
        assert beside.predecessor is None
    with instance(tmp_path) as third:
        assert third.predecessor == first.owner
