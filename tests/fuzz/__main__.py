"""`python -m tests.fuzz [--seconds N] [TARGET …]`: each target at length, by atheris where it is installed.

What lets something out is kept beside the corpus, as crash-…; put it there once it is repaired. Exit status 1: there is
one.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import io
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

from tests.fuzz.mutations import CORPUS, MAX_BYTES, corpus_of, mutated

Target: TypeAlias = Callable[[bytes], None]
Targets: TypeAlias = Mapping[str, Target]

SLOWEST_S: Final = 5  # of the processor, for one input of at most 64 KiB
MOST_MIB: Final = 2048  # of the whole process


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/test fuzz", description="Try every decoder at length.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the mutations")
    parser.add_argument("targets", nargs="*", help="all of them, where none is named")
    given = parser.parse_args()
    has_atheris = importlib.util.find_spec("atheris") is not None
    fuzz = _by_atheris if has_atheris else _by_mutations
    print(f"{'atheris' if has_atheris else 'mutations without coverage'}, seed {given.seed}", flush=True)
    targets = _instrumented() if has_atheris else _plain()
    if wrong := [name for name in given.targets if name not in targets]:
        parser.error(f"no such target: {', '.join(wrong)}; there are {', '.join(targets)}")
    failed = [name for name in given.targets or targets if not fuzz(name, targets[name], given.seconds, given.seed)]
    print(f"failed: {', '.join(failed)}" if failed else "nothing was let out", flush=True)
    return 1 if failed else 0


def _plain() -> Targets:
    from tests.fuzz.targets import TARGETS

    return TARGETS


def _instrumented() -> Targets:
    import atheris

    ours = ["control_plane", "control_plane_agent", "control_plane_wire"]
    with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=ours):  # it names each module
        return _plain()


def _by_atheris(name: str, fuzzed: Target, seconds: int, seed: int) -> bool:
    """In a process of its own, since libFuzzer ends it; forked, since to instrument all modules takes long."""
    found = Path.cwd() / ".fuzz" / name  # what atheris finds worth keeping; not in the repository
    found.mkdir(parents=True, exist_ok=True)
    log = found.with_suffix(".log")
    flags = [f"-max_total_time={seconds}", f"-seed={seed % 2**31}", f"-max_len={MAX_BYTES}", f"-timeout={SLOWEST_S}"]
    flags += [f"-rss_limit_mb={MOST_MIB}", "-verbosity=0", "-print_final_stats=1"]
    flags += [f"-artifact_prefix={Path.cwd()}/crash-{name}-", str(found), str(CORPUS / name)]
    if not (pid := os.fork()):
        _become_the_fuzzer(log, flags, fuzzed)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said = log.read_text(errors="replace")
    tried = [line.split()[-1] for line in said.splitlines() if "number_of_executed_units" in line]
    print(f"{name}: {tried[0] if tried else '?'} inputs, {'FAILED' if ended else 'fine'}", flush=True)
    if ended:
        print(said[-3000:], flush=True)
    return not ended


def _become_the_fuzzer(log: Path, flags: list[str], fuzzed: Target) -> NoReturn:
    import atheris

    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    atheris.Setup([sys.argv[0], *flags], fuzzed)
    atheris.Fuzz()
    sys.exit(0)


def _by_mutations(name: str, fuzzed: Target, seconds: int, seed: int) -> bool:
    ends, tried, corpus = time.monotonic() + seconds, 0, corpus_of(name)
    while time.monotonic() < ends:
        for data in mutated(corpus, number=200, seed=seed + tried, most_bytes=MAX_BYTES):
            tried += 1
            began, error = time.process_time(), None
            try:
                fuzzed(data)
            except Exception as let_out:  # noqa: BLE001 - whatever it is, it is what is looked for
                error = let_out
            if (took_s := time.process_time() - began) > SLOWEST_S:
                error = TimeoutError(f"{took_s:.1f} s")
            if error is not None:
                path = Path(f"crash-{name}-{hashlib.sha1(data, usedforsecurity=False).hexdigest()}")
                path.write_bytes(data)
                print(f"{name}: FAILED on {path}: {error!r}", flush=True)
                return False
    print(f"{name}: {tried} inputs, fine", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
