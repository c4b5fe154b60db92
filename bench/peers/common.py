"""What the peers share: the shapes of shapes.json, operand sets that rotate past the L2, times by
CUDA events and, for short calls, by replays of a captured graph: the method of gpu_measure.cpp."""
import argparse
import gc
import json
import math
import pathlib
import statistics
import time
from typing import Any, Callable, Sequence

import torch

SAMPLING = 0.2  # seconds a variant
WARM_UP = 0.03
SAMPLE = 200e-6
LEAST_SETS, MOST_SETS, MOST_CALLS = 8, 64, 512
BF16, F32 = torch.bfloat16, torch.float32

HERE = pathlib.Path(__file__).resolve().parent


def shapes(family: str) -> list[dict[str, Any]]:
    for folder in (HERE.parent, HERE):
        if (folder / "shapes.json").exists():
            return json.loads((folder / "shapes.json").read_text())[family]
    raise SystemExit("shapes.json is neither beside the peers nor above them")


def normal(*shape: int, dtype: torch.dtype = BF16, grad: bool = False) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype).requires_grad_(grad)


def describe() -> dict[str, str]:
    return {"torch": torch.__version__, "cuda": str(torch.version.cuda),
            "gpu": torch.cuda.get_device_name(0)}


def l2_bytes() -> int:
    return getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)


def operand_sets(make: Callable[[], Any]) -> list[Any]:
    before = torch.cuda.memory_allocated()
    sets = [make()]
    size = max(1, torch.cuda.memory_allocated() - before)
    wanted = min(max(2 * l2_bytes() // size + 1, LEAST_SETS), MOST_SETS)
    memory = torch.cuda.get_device_properties(0).total_memory // 3
    count = max(1, min(memory // size, wanted))
    return sets + [make() for _ in range(count - 1)]


def capture(body: Callable[[], None]) -> Any:
    """A graph of body, or None where it cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        # The stream of everything here: a backward runs on the stream of its forward.
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            body()
    except Exception:  # whatever the reason, calls are timed instead, and the record says so
        torch.cuda.synchronize()
        return None
    return graph


def events(count: int, body: Callable[[], None]) -> list[float]:
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        body()
        mark.record()
    torch.cuda.synchronize()
    return [1e-3 * a.elapsed_time(b) for a, b in zip(marks, marks[1:])]


def measure(op: Callable[[Any], Any], sets: Sequence[Any], graph: bool = True) -> dict[str, Any]:
    """Times of op(set), sets following one another."""
    turn = 0
    # Results stay alive for a turn: freed at once, each would be written to the same memory, which
    # the L2 may still hold.
    kept: list[Any] = [None] * len(sets)

    def several(calls: int) -> None:
        nonlocal turn
        for _ in range(calls):
            kept[turn] = op(sets[turn])
            turn = (turn + 1) % len(sets)

    several(len(sets))
    torch.cuda.synchronize()
    once, warm = 0.0, 0.0
    while warm < WARM_UP:
        once = max(1e-7, events(1, lambda: several(len(sets)))[0] / len(sets))
        warm += once * len(sets)
    calls = min(max(math.ceil(SAMPLE / once), 1), MOST_CALLS)
    body, captured = (lambda: several(calls)), None
    # Eager calls of microseconds are bound by the host, so `once` says little of the device.
    if graph and once < 20 * SAMPLE:
        turns = max(len(sets), min(calls // len(sets) * len(sets), MOST_CALLS))
        turn = 0
        captured = capture(lambda: several(turns))
    if captured is not None:
        calls, body = turns, captured.replay
        once = events(1, body)[0] / calls
    samples = min(max(int(SAMPLING / (once * calls)), 15), 200)
    times = sorted(1e3 * t / calls for t in events(samples, body))
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return {"median_ms": statistics.median(times), "p10_ms": tenths[0], "p90_ms": tenths[-1],
            "spread": (tenths[-1] - tenths[0]) / statistics.median(times),
            "samples": samples, "graph": captured is not None}


class Results:
    """name -> one record a variant. A variant that fails is recorded with its error."""

    def __init__(self, out: str, budget: float):
        self.out, self.end = pathlib.Path(out), time.monotonic() + budget
        self.records: dict[str, list[dict[str, Any]]] = {}

    def add(self, name: str, variant: str, make: Callable[[], Any], op: Callable[[Any], Any],
            graph: bool = True) -> None:
        record: dict[str, Any] = {"variant": variant, **describe()}
        sets = None
        try:
            if time.monotonic() > self.end:
                raise TimeoutError("the time for this family is over")
            sets = operand_sets(make)
            record |= measure(op, sets, graph)
        except Exception as error:
            record["error"] = f"{type(error).__name__}: {error}"[:500]
        del sets
        gc.collect()
        torch.cuda.empty_cache()
        self.records.setdefault(name, []).append(record)
        failed = record.get("error")
        shown = failed if failed else f"{1e3 * record['median_ms']:10.1f} us"
        print(f"{name:46} {variant:24} {shown}", flush=True)
        self.write()

    def write(self) -> None:
        self.out.write_text(json.dumps({"meta": describe(), "results": self.records}, indent=1))


def compiled(function: Callable, **options: Any) -> Callable:
    """torch.compile of it for fixed shapes, from scratch: a family's shapes would else run into the
    limit of recompilations and fall back to eager without a word."""
    torch.compiler.reset()
    return torch.compile(function, dynamic=False, **options)


def start(family: str) -> Results:
    parser = argparse.ArgumentParser(description=f"Times of PyTorch: {family}")
    parser.add_argument("--out", default=f"{family}.json")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds; later variants fail")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("the peers need a GPU; torch sees none")
    torch.manual_seed(1)
    torch.cuda.set_stream(torch.cuda.Stream())  # the default one cannot be captured
    torch.backends.cuda.matmul.allow_tf32 = False
    return Results(args.out, args.budget)
