from hypothesis import given
from hypothesis import strategies as st

from control_plane.projections.usage import BLOCK_US, Usage, block_of, entries, packed, thinned


def test_a_block_is_its_entries_one_behind_the_other_in_32_bytes_each() -> None:
    data = packed(1, 2, 0.0, 1.0) + packed(3, 4, 0.5, 0.25)

    assert data[:32].hex() == "0000000000000001000000000000000200000000000000003ff0000000000000"
    assert entries(data) == [Usage(1, 2, 0.0, 1.0), Usage(3, 4, 0.5, 0.25)]
    assert entries(b"") == []


def test_a_block_begins_at_its_first_microsecond_and_ends_before_the_next_one() -> None:
    assert [block_of(us) for us in (0, BLOCK_US - 1, BLOCK_US, BLOCK_US + 1)] == [0, 0, BLOCK_US, BLOCK_US]


@given(
    times=st.lists(st.integers(0, 1000), unique=True).map(sorted),
    from_us=st.integers(-1, 1001),
    to_us=st.integers(-1, 1001),
    points=st.integers(1, 50),
)
def test_of_more_than_the_wanted_points_the_newest_in_each_equal_part_is_left(
    times: list[int], from_us: int, to_us: int, points: int
) -> None:
    kept = [Usage(us, seq, seq / 1000, 1 - seq / 1000) for seq, us in enumerate(times)]

    found = thinned(b"".join(packed(*usage) for usage in kept), from_us=from_us, to_us=to_us, points=points)

    wanted = [usage for usage in kept if from_us <= usage.recorded_us <= to_us]
    if len(wanted) > points:
        first_us = wanted[0].recorded_us
        part_us = (wanted[-1].recorded_us - first_us) // points + 1
        wanted = list({(usage.recorded_us - first_us) // part_us: usage for usage in wanted}.values())
    assert found == wanted
