"""`python -m jdx.backends.jittor.worker`: started by `jdx.backends.jittor.process`, not by hand."""

from __future__ import annotations

import argparse
import os
import sys

from jdx.backends.jittor.worker.watch import end_with


def main() -> None:
    """The worker: orders, answers and life are the numbers of open pipes."""
    parser = argparse.ArgumentParser()
    for name in ("orders", "answers", "life"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--jobs")
    given = parser.parse_args()
    end_with(given.life)
    for descriptor in (given.orders, given.answers):
        os.set_inheritable(descriptor, False)
    # Imported late: the watching process above is a copy of this one, and should be a small one.
    from jdx.backends.jittor.worker.loop import JOBS, Setup, serve
    from jdx.backends.jittor.worker.tell import Answers

    orders = os.fdopen(given.orders, encoding="utf-8")
    answers = Answers(os.fdopen(given.answers, "w", encoding="utf-8"))
    try:
        serve(orders, answers, Setup(given.device, given.dtype, given.jobs or JOBS))
    except BrokenPipeError:
        print("nobody listens any more", file=sys.stderr)


if __name__ == "__main__":
    main()
