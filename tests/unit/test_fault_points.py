import pytest

from tests.support.faults.points import every_point, hits_in


def test_the_points_are_those_of_the_source() -> None:
    points = every_point()

    assert points["log.before_commit"] == "control_plane/events/appender.py"
    assert points["journal.named"] == "control_plane_agent/journal.py"
    assert points["supervisor.started"] == "control_plane_agent/supervisor.py"


def test_a_hit_is_found_wherever_it_stands_and_has_to_be_literal() -> None:
    assert list(hits_in("class A:\n  def f(self):\n    if self: self._failpoints.hit('a.b')")) == ["a.b"]
    with pytest.raises(ValueError, match="line 1"):
        list(hits_in("x.hit(name)"))
