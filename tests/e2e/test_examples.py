"""The examples of the documentation work as they stand, for who pastes them beside `control-plane dev --agents 20`."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.programs import Program
from tests.support.servers import free_port, wait_until

ROOT = Path(__file__).parents[2]
START = "Use it from a program"  # sets what the others use
# What goes wrong ends the script; what is followed for ever does not hold it for ever.
SHELL = 'set -e; curl() { command curl --silent --show-error --fail --max-time 60 "$@"; }\n'


def examples(document: str, heading: str) -> str:
    """What stands indented below a heading, up to the next one."""
    text = (ROOT / document).read_text()
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(dedent(block) for block in re.findall(r"(?:^    .*\n)+", section, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """As the checkout is beside a running `scripts/run --agents 20`."""
    made = tmp_path_factory.mktemp("checkout")
    (made / ".venv").symlink_to(sys.prefix)
    state = made / ".control-plane"
    argv = ["control-plane", "dev", "--agents", "20", "--state-dir", str(state), "--listen", f"127.0.0.1:{free_port()}"]
    program = Program(argv, log=made / "dev.log", environment={}).start()
    try:
        wait_until((state / "dev.json").exists, timeout_s=60, what=f"dev is up: {program.text()}")
        yield made
    finally:
        program.stop()


def pasted(directory: Path, *blocks: str) -> str:
    """What a shell says to these, one after the other."""
    assert shutil.which("curl"), "the examples need curl"
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        ["/bin/bash", "-c", SHELL + "\n".join(blocks)],
        cwd=directory,
        env={"PATH": path, "LANG": "C.UTF-8", "HOME": str(directory)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_readme_s_examples_find_the_state_and_run_a_command(directory: Path) -> None:
    listed = "\n".join(examples("README.md", "Try it").splitlines()[1:-1])  # between scripts/run and scripts/test
    assert "projections list" in listed

    assert "live" in pasted(directory, listed)
    assert '"command":"uptime"' in pasted(directory, examples("README.md", START))


def test_live_output_is_followed_up_to_its_end(directory: Path) -> None:
    said = pasted(directory, examples("README.md", START), examples("docs/operations.md", "Live output"))

    assert re.findall(r"step \d", said.partition("event: ping")[2]) == ["step 1", "step 2", "step 3"]
    assert said.endswith("event: output_end\n")


def test_a_rollout_is_accepted_and_the_fleet_is_shown_as_it_was(directory: Path) -> None:
    blocks = [examples("docs/operations.md", heading) for heading in ("Little by little", "The fleet as it was")]
    said = pasted(directory, examples("README.md", START), *blocks)

    assert '"canary":1' in said
    assert '"items":[' in said


def test_an_event_is_proved(directory: Path) -> None:
    settings = "\n".join(line for line in examples("README.md", "Try it").splitlines() if line.startswith("export"))
    proof = examples("docs/operations.md", "The proof").partition("control-plane log accept-loss")[0]

    assert "proved: event 7 " in pasted(directory, settings, examples("README.md", START), proof)
