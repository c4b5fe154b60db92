"""Runs every family in a process of its own (one that breaks its CUDA context must not take the
others along) within a budget of seconds, and joins their results into one file for
`parlo-bench --compare FILE`."""
import argparse
import json
import pathlib
import subprocess
import sys
import time

FAMILIES = ("attention", "decode", "gemm", "norm", "elementwise", "log_prob", "vae")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="peers.json")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds for all families")
    args = parser.parse_args()
    out, end = pathlib.Path(args.out), time.monotonic() + args.budget
    joined: dict = {"meta": {}, "results": {}}
    broken = []
    for index, family in enumerate(FAMILIES):
        share = max(5.0, (end - time.monotonic()) / (len(FAMILIES) - index))
        part = out.with_name(f"{out.stem}_{family}.json")
        part.unlink(missing_ok=True)
        script = pathlib.Path(__file__).with_name(f"{family}.py")
        command = [sys.executable, str(script), "--out", str(part), "--budget", str(0.85 * share)]
        why = ""
        try:
            code = subprocess.run(command, timeout=share).returncode
            why = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            why = f"stopped after {share:.0f} s"
        if part.exists():
            got = json.loads(part.read_text())
            joined["meta"] = got["meta"]
            joined["results"] |= got["results"]
        if why:
            broken.append(f"{family}: {why}")
            print(f"run_all: {family}: {why}", file=sys.stderr)
    joined["meta"]["incomplete"] = broken
    out.write_text(json.dumps(joined, indent=1))
    print(f"{len(joined['results'])} names in {out}")
    return 0 if joined["results"] else 1


if __name__ == "__main__":
    sys.exit(main())
