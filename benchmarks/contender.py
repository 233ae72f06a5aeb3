"""The process of one contender: `contender.py FILE WORK` prepares, then does the work as often as stdin says.

Answers are lines of JSON on stdout; everything that libraries print goes to stderr.
"""

import importlib
import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Prepare, call once (which compiles), answer, and then follow the lines on stdin."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    sys.path.insert(0, str(Path(__file__).parent / "contenders"))

    def answer(seconds: float | list[float]) -> None:
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)

    call = importlib.import_module(sys.argv[1]).prepare(json.loads(sys.argv[2]))
    call()
    answer(0.0)
    for line in sys.stdin:
        taken = []
        for _ in range(int(line)):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        answer(taken)


if __name__ == "__main__":
    main()
