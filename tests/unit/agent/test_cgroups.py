"""How cgroups v2 are divided and limited, on files that stand for them."""

from pathlib import Path

import pytest

from control_plane_agent.cgroups import MOST_PIDS, Limits, hand_on, limit


def a_cgroup(path: Path, *, controllers: str = "cpu io memory pids", below: str = "", files: str = "") -> Path:
    path.mkdir(parents=True)
    (path / "cgroup.controllers").write_text(controllers)
    (path / "cgroup.subtree_control").write_text(below)
    for name in files.split():
        (path / name).write_text("max")
    return path


@pytest.mark.parametrize(
    ("controllers", "below", "written"),
    [
        ("cpu io memory pids", "", "+memory +pids"),
        ("cpu io memory pids", "memory", "+pids"),
        ("cpu io memory pids", "memory pids", "memory pids"),
        ("cpu", "", ""),
    ],
)
def test_those_below_may_be_limited_by_what_a_cgroup_has(
    tmp_path: Path, controllers: str, below: str, written: str
) -> None:
    unit = a_cgroup(tmp_path / "unit", controllers=controllers, below=below)

    hand_on(str(unit), str(tmp_path / "not there"))

    assert (unit / "cgroup.subtree_control").read_text() == written


def test_a_leaf_is_limited_by_the_controllers_that_it_has(tmp_path: Path) -> None:
    leaf = a_cgroup(tmp_path / "leaf", files="pids.max memory.max")
    bare = a_cgroup(tmp_path / "bare")

    assert limit(str(leaf), Limits()) == {"pids", "memory"}
    assert [(leaf / name).read_text() for name in ("pids.max", "memory.max")] == [str(MOST_PIDS), "max"]

    found = [limit(str(each), Limits(pids=7, memory_mib=3)) for each in (leaf, bare)]
    assert found == [{"pids", "memory"}, set()]
    assert [(leaf / name).read_text() for name in ("pids.max", "memory.max")] == ["7", str(3 << 20)]
    assert not (bare / "pids.max").exists()
