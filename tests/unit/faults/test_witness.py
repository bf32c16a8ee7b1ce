import subprocess
from pathlib import Path

import pytest

from tests.support.faults.witness import command, expected, read


@pytest.mark.parametrize("task_id", [f"task-{number}" for number in range(6)])
def test_the_command_leaves_a_line_and_says_what_is_expected(tmp_path: Path, task_id: str) -> None:
    host, witness = tmp_path / "web1", tmp_path / "witness"
    for directory in (host, witness):
        directory.mkdir()
    line = f"cd {host}; exec /bin/sh -c 'sh -c \"$LINE\"; exit $?'"  # the outer one is the supervisor, in its directory

    done = subprocess.run(
        ["/bin/sh", "-c", line],
        env={"PATH": "/usr/bin:/bin", "CONTROL_PLANE_TASK_ID": task_id, "LINE": command(witness)},
        capture_output=True,
        check=False,
    )

    wanted = expected(task_id)
    assert (done.stdout.decode(), done.returncode) == (wanted.stdout, wanted.exit_code), done.stderr
    assert read(witness) == {"web1": [task_id]}
