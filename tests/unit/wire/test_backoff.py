from control_plane_wire.backoff import Backoff


def test_the_bound_doubles_up_to_the_most_and_starts_over() -> None:
    backoff = Backoff(0.5, 3.0, rng=lambda: 1.0)

    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next_s() == 0.5


def test_jitter_is_full() -> None:
    numbers = iter([0.0, 0.25, 1.0])
    backoff = Backoff(1.0, 60.0, rng=lambda: next(numbers))

    assert [backoff.next_s() for _ in range(3)] == [0.0, 0.5, 4.0]
