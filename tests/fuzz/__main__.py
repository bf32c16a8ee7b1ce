"""`python -m tests.fuzz [--seconds N] [TARGET …]`: each target at length, by atheris where it is installed.

What lets something out is kept beside the corpus, as crash-…; put it there once it is repaired. Exit status 1: there is
one.
"""

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

SLOWEST_S: Final = 5  # of the processor, for one input of at most 64 KiB
MOST_MIB: Final = 2048  # of the whole process


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/test fuzz", description="Try every decoder at length.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the mutations")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", help="all of them, where none is named")
    given, rest = parser.parse_known_args()
    if given.one:
        return _by_atheris(given.one, rest)
    from tests.fuzz.targets import TARGETS

    has_atheris = importlib.util.find_spec("atheris") is not None
    print(f"{'atheris' if has_atheris else 'mutations without coverage'}, seed {given.seed}", flush=True)
    wrong = [name for name in given.targets if name not in TARGETS]
    if wrong:
        parser.error(f"no such target: {', '.join(wrong)}; there are {', '.join(TARGETS)}")
    failed = [
        name
        for name in given.targets or TARGETS
        if not (_apart if has_atheris else _by_mutations)(name, given.seconds, given.seed)
    ]
    print(f"failed: {', '.join(failed)}" if failed else "nothing was let out", flush=True)
    return 1 if failed else 0


def _apart(name: str, seconds: int, seed: int) -> bool:
    """A process of its own for a target, since libFuzzer ends it."""
    from tests.fuzz.mutations import CORPUS
    from tests.fuzz.targets import MAX_BYTES

    argv = [sys.executable, "-m", "tests.fuzz", "--one", name, f"-max_total_time={seconds}", f"-seed={seed % 2**31}"]
    argv += [f"-max_len={MAX_BYTES}", f"-timeout={SLOWEST_S}", f"-rss_limit_mb={MOST_MIB}", "-verbosity=0"]
    argv += [f"-artifact_prefix={Path.cwd()}/crash-{name}-", "-print_final_stats=1"]
    new = Path.cwd() / ".fuzz" / name  # what atheris finds worth keeping; not in the repository
    new.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([*argv, str(new), str(CORPUS / name)], capture_output=True, text=True, check=False)
    tried = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
    print(f"{name}: {tried[0] if tried else '?'} inputs, {'fine' if done.returncode == 0 else 'FAILED'}", flush=True)
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n", flush=True)
    return done.returncode == 0


def _by_atheris(name: str, flags: list[str]) -> int:
    import atheris

    with atheris.instrument_imports(include=["control_plane", "control_plane_agent", "control_plane_wire"]):
        from tests.fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *flags], TARGETS[name])
    atheris.Fuzz()
    return 0


def _by_mutations(name: str, seconds: int, seed: int) -> bool:
    from tests.fuzz.mutations import corpus_of, mutated
    from tests.fuzz.targets import MAX_BYTES, TARGETS

    ends, tried, corpus = time.monotonic() + seconds, 0, corpus_of(name)
    while time.monotonic() < ends:
        for data in mutated(corpus, number=200, seed=seed + tried, most_bytes=MAX_BYTES):
            tried += 1
            began, error = time.process_time(), None
            try:
                TARGETS[name](data)
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
