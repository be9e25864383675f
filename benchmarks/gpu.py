"""One training step and one run of BERT-base at batch 8 on SST-2's lengths: other people's and ours, on a GPU.

    python benchmarks/gpu.py [--steps 64] [--workers 1 2 4 8] [--tiny]

Two ceilings of the card are measured first, a copy in its memory and matrix products. They give the floor of a step:
the bytes that it must move (weights read forward and backward, gradients written and read for their norm, AdamW's
reads and writes) over the one, and its arithmetic over the other. Then the step in each way, on the same batches:
milliseconds, the median, and its distance to the floor. Then whole runs of 500 and 5,000 examples with 872 scored: the
released recipe's by a process of its own, ours in a warm one. Last, how many steps a second several processes get out
of one card. The network has BERT-base's shape and random weights, since only time is measured; lengths are drawn from
SST-2's quantiles. Nothing is read from a network. `--tiny` is a small network for trying the script, on a CPU too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from benchmarks.rows import SST2_LENGTHS
from jobs.cell import Cell, Epochs, Model, Recipe, Reinit
from jobs.tasks import GLUE
from reinit.batches import Batch, collate
from reinit.data import Example
from reinit.engine import build_schedule
from reinit.evaluate import predict
from reinit.network import Network
from reinit.places import Places, pin
from reinit.ranks import Ranks, device_model, join_ranks
from reinit.train import Step, losses_of, steps_together, train

BATCH: Final = 8
FIRST: Final = 48
"""Steps of each precision before a process is timed at all: kernels are loaded when a shape is first seen."""
WARM: Final = 4
"""Steps of each measurement that are not counted: the engine is new."""
SIZES: Final = (500, 5_000)
EPOCHS: Final = 3
SCORED: Final = 872
RELEASED_LENGTH: Final = 128

OneStep = Callable[[Sequence[Example]], object]


class EnoughError(Exception):
    """The measured steps are done."""


def main() -> None:
    """Measure and print."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    set_verbosity_error()  # type: ignore[no-untyped-call]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each number of processes trains")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--released", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.released:
        _be_released(options.released)
        return
    ranks = join_ranks()
    if options.child:
        _be_child(options.child, ranks)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = _write_network(Path(made), tiny=options.tiny)
        print(f"{device_model(ranks.device)}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
        floor = _print_ceilings(ranks.device, folder, tiny=options.tiny)
        _print_steps(ranks, folder, options.steps, floor)
        _print_runs(ranks, folder)
        if options.workers:
            _print_workers(folder, options.workers, options.seconds)


# ------------------------------------------------------------------------------------------------- network and rows


def _write_network(folder: Path, *, tiny: bool) -> Path:
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
    }
    config = BertConfig(**(small if tiny else {}))
    AutoModel.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


def _examples(rows: int) -> list[Example]:
    random = np.random.default_rng(0)
    places = np.linspace(0, 1, len(SST2_LENGTHS))
    lengths = np.interp(random.random(rows), places, SST2_LENGTHS).round().astype(int)
    ids = [random.integers(1000, 20000, length).tolist() for length in lengths]
    return [Example(each, [0] * len(each), float(number % 2)) for number, each in enumerate(ids)]


def _batches(steps: int) -> list[list[Example]]:
    rows = _examples(steps * BATCH)
    return [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]


def _cell(folder: Path, rows: int, precision: str, epochs: int = 1) -> Cell:
    layers = json.loads((folder / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    model = Model(name="bench", revision=pin(folder), layers=layers)
    recipe = Recipe(duration=Epochs(epochs=epochs), batch_size=BATCH, precision=precision)  # type: ignore[arg-type]
    return Cell(model=model, task=GLUE["sst2"], size=rows, treatment=Reinit(), recipe=recipe)


# --------------------------------------------------------------------------------------------------------- ceilings


def _print_ceilings(device: torch.device, folder: Path, *, tiny: bool) -> float:
    """Measure the card and return the floor of a step, in seconds."""
    network = AutoModel.from_pretrained(folder)
    everything: int = sum(parameter.numel() for parameter in network.parameters())
    layers: int = sum(parameter.numel() for parameter in network.encoder.parameters())
    tokens = statistics.mean(sum(len(row.input_ids) for row in rows) for rows in _batches(60))
    size, side = (2**20, 256) if tiny else (2**31, 8192)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied: float = 2 * size / _median_seconds(partial(target.copy_, source), device)
    rates: dict[torch.dtype, float] = {}
    for kind in (torch.bfloat16, torch.float32):
        left, right = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
        rates[kind] = 2 * side**3 / _median_seconds(partial(torch.mm, left, right), device)
    # Read forward and backward; gradients written, and read for their norm; AdamW reads p, g, m, v and writes p, m, v.
    moved = 4 * (2 * layers + 2 * everything + 7 * everything)
    operations = 6 * layers * tokens
    floor = moved / copied
    print(f"copy {copied / 1e12:.2f} TB/s, bf16 product {rates[torch.bfloat16] / 1e12:.0f} TFLOP/s, ", end="")
    print(f"fp32 product {rates[torch.float32] / 1e12:.0f} TFLOP/s")
    print(
        f"floor of a step: {moved / 1e9:.2f} GB are {1e3 * floor:.2f} ms; {operations / 1e9:.0f} GFLOP of {tokens:.0f} "
        f"tokens are {1e3 * operations / rates[torch.float32]:.2f} ms in fp32, "
        f"{1e3 * operations / rates[torch.bfloat16]:.2f} ms in bf16",
        flush=True,
    )
    return floor


def _median_seconds(what: Callable[[], object], device: torch.device, times: int = 12) -> float:
    for _ in range(3):
        what()
    clock = Clock(device)
    for _ in range(times):
        what()
        clock.tick()
    return statistics.median(clock.seconds())


class Clock:
    """Times between ticks, by the device's own events where it has them."""

    def __init__(self, device: torch.device) -> None:
        """Start with everything before it done."""
        self._on_gpu = device.type == "cuda"
        self._events: list[Any] = []
        self._synchronise()
        self.tick()

    def tick(self) -> None:
        """The end of a step."""
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._events.append(event)
        else:
            self._events.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Of each step."""
        self._synchronise()
        pairs = zip(self._events, self._events[1:], strict=False)
        return [a.elapsed_time(b) / 1e3 if self._on_gpu else b - a for a, b in pairs]

    def _synchronise(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()


# ------------------------------------------------------------------------------------------------------------ steps


def _print_steps(ranks: Ranks, folder: Path, steps: int, floor: float) -> None:
    batches = _batches(steps)
    by_length = sorted((row for rows in batches for row in rows), key=lambda row: len(row.input_ids))
    grouped = [by_length[first : first + BATCH] for first in range(0, len(by_length), BATCH)]
    torch.manual_seed(1)
    grouped = [grouped[index] for index in torch.randperm(len(grouped)).tolist()]
    make = partial(Plain, folder, ranks.device)
    rows: list[tuple[str, Callable[[], list[float]]]] = [
        (
            "as released: 128 tokens, AdamW and clipping by loops, fp32",
            lambda: _timed(make(length=RELEASED_LENGTH, loops=True), batches, ranks.device),
        ),
        (
            "library at best: by length, fused AdamW, no sync, fp32",
            lambda: _timed(make(), grouped, ranks.device),
        ),
        (
            "library at best: by length, fused AdamW, no sync, bf16",
            lambda: _timed(make(bf16=True), grouped, ranks.device),
        ),
        ("ours, kernel by kernel, fp32", lambda: _ours(ranks, folder, batches, "fp32", captured=False)),
        ("ours, fp32", lambda: _ours(ranks, folder, batches, "fp32")),
        ("ours, bf16", lambda: _ours(ranks, folder, batches, "bf16")),
    ]
    print(f"\n{'a step':<60}{'median ms':>10}{'mean ms':>9}{'to floor':>10}")
    for name, measure in rows:
        try:
            seconds = measure()
        except (RuntimeError, TypeError, ValueError) as error:
            # What one library version refuses must not cost the other figures.
            print(f"{name:<60} failed: {str(error).splitlines()[0][:100]}", flush=True)
            continue
        median, mean = statistics.median(seconds), statistics.mean(seconds)
        print(f"{name:<60}{1e3 * median:>10.2f}{1e3 * mean:>9.2f}{median / floor:>10.1f}", flush=True)


def _timed(step: OneStep, batches: Sequence[Sequence[Example]], device: torch.device) -> list[float]:
    """Seconds of each step, on a second pass, with torch free to use algorithms whose bits do not repeat.

    The first pass is not timed: kernels are loaded, and their variants chosen, when a shape is first seen.
    """
    torch.use_deterministic_algorithms(mode=False)
    try:
        for rows in batches:
            step(rows)
        clock = Clock(device)
        for rows in batches:
            step(rows)
            clock.tick()
        return clock.seconds()
    finally:
        torch.use_deterministic_algorithms(mode=True)


def _ours(
    ranks: Ranks, folder: Path, batches: Sequence[Sequence[Example]], precision: str, *, captured: bool = True
) -> list[float]:
    """Seconds of a step, one figure for each time that losses are read, on a second pass."""
    rows = [row for each in batches for row in each]
    cell = _cell(folder, len(rows), precision, epochs=2)
    network = _network(cell, folder, ranks)
    network.prepare(cell, 1)
    ends: list[tuple[int, float]] = []

    def on_step(step: int, _loss: float) -> None:
        if step > len(batches) and step % steps_together(ranks.device) == 0:
            ends.append((step, time.perf_counter()))

    with nullcontext() if captured else _uncaptured():
        train(network, rows, cell, 1, ranks, on_step)
    return [(after - before) / (last - first) for (first, before), (last, after) in pairwise(ends)]


@contextmanager
def _uncaptured() -> Iterator[None]:
    made = Step.__init__

    def make(step: Step, *arguments: Any) -> None:
        made(step, *arguments)
        step._captured = None  # noqa: SLF001  what a user has no reason to switch off

    Step.__init__ = make  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Step.__init__ = made  # type: ignore[method-assign]


def _network(cell: Cell, folder: Path, ranks: Ranks) -> Network:
    network = Network.load(cell.model, 2, cell.recipe, Places({"bench": folder}))
    network.module.to(ranks.device)
    return network


class Plain:
    """The step in plain torch, by the library's forward pass."""

    def __init__(
        self, folder: Path, device: torch.device, *, length: int | None = None, loops: bool = False, bf16: bool = False
    ) -> None:
        """A fresh network.

        Args:
            folder: its weights.
            device: where it trains.
            length: what texts are padded to, the batch's longest if None.
            loops: as the released code: AdamW and clipping one parameter after another, the loss read at each step.
            bf16: autocast.
        """
        network: nn.Module = AutoModelForSequenceClassification.from_pretrained(folder)
        self.network: Any = network.to(device).train()
        self.device, self.length, self.loops, self.bf16 = device, length, loops, bf16
        self.parameters = tuple(self.network.parameters())
        how: dict[str, Any] = {"foreach": False} if loops else {"fused": True}
        recipe = Recipe(duration=Epochs(epochs=3))
        self.optimiser = torch.optim.AdamW(self.parameters, lr=recipe.learning_rate, weight_decay=0.0, **how)
        self.schedule = build_schedule(self.optimiser, recipe, 10_000)

    def __call__(self, rows: Sequence[Example]) -> None:
        """One step."""
        batch = (collate(rows, 0) if self.length is None else _padded(rows, self.length)).to(self.device)
        cast = torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with cast:
            logits = self.network(**batch.inputs).logits
        loss = losses_of(logits.float(), batch.labels, regression=False).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=not self.loops)
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad()
        if self.loops:
            loss.item()


def _padded(rows: Sequence[Example], length: int) -> Batch:
    batch = collate(rows, 0)
    more = length - batch.inputs["input_ids"].shape[1]
    return Batch({name: nn.functional.pad(value, (0, more)) for name, value in batch.inputs.items()}, batch.labels)


# ------------------------------------------------------------------------------------------------------- whole runs


def _print_runs(ranks: Ranks, folder: Path) -> None:
    """Seconds of a run; the released recipe's at 5,000 examples from its steps at 500."""
    sizes = SIZES
    command = [sys.executable, __file__, "--released", str(folder)]
    began = time.perf_counter()
    answer = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    released = time.perf_counter() - began
    step = json.loads(answer.stdout.splitlines()[-1])["step"]
    more = step * EPOCHS * (-(-sizes[1] // BATCH) + -sizes[0] // BATCH)
    seconds = {"as released, a process": (released, released + more)}
    for precision in ("fp32", "bf16"):
        ours = [_run(ranks, folder, size, precision) for size in sizes]
        seconds[f"ours in a warm process, {precision}"] = (ours[0], ours[1])
    print(f"\n{'a run':<34}" + "".join(f"{size:>9,} rows{'ratio':>7}" for size in sizes))
    for name, values in seconds.items():
        ratios = zip(values, seconds["as released, a process"], strict=True)
        print(f"{name:<34}" + "".join(f"{own:>12.1f} s{peer / own:>7.1f}" for own, peer in ratios), flush=True)


def _run(ranks: Ranks, folder: Path, size: int, precision: str) -> float:
    """A second run's seconds: everything from the pristine network to the logits."""
    rows, scored = _examples(size), _examples(SCORED)
    cell = _cell(folder, size, precision, EPOCHS)
    network = _network(cell, folder, ranks)
    for seed in (1, 2):
        began = time.perf_counter()
        network.prepare(cell, seed)
        train(network, rows, cell, seed, ranks, lambda *_: None)
        predict(network.form, scored, ranks, bf16=precision == "bf16")
        seconds = time.perf_counter() - began
    return seconds


def _be_released(folder: Path) -> None:
    """A run as released, of the smaller size; says what a step takes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain = Plain(folder, device, length=RELEASED_LENGTH, loops=True)
    rows, seconds = _examples(SIZES[0]), []
    for _ in range(EPOCHS):
        for first in range(0, len(rows), BATCH):
            began = time.perf_counter()
            plain(rows[first : first + BATCH])
            seconds.append(time.perf_counter() - began)
    with tempfile.TemporaryDirectory() as saved:
        plain.network.save_pretrained(saved)
        network: Any = AutoModelForSequenceClassification.from_pretrained(saved).to(device).eval()
    scored = _examples(SCORED)
    with torch.no_grad():
        for first in range(0, len(scored), BATCH):
            batch = _padded(scored[first : first + BATCH], RELEASED_LENGTH).to(device)
            network(**batch.inputs).logits.argmax(-1).tolist()
    print(json.dumps({"step": statistics.median(seconds)}))


# -------------------------------------------------------------------------------------------- several processes at once


def _print_workers(folder: Path, counts: Sequence[int], seconds: float) -> None:
    print(f"\n{'processes on one card':<34}{'steps/s in fp32':>18}{'in bf16':>12}", flush=True)
    threads = max(1, len(os.sched_getaffinity(0)) // max(counts))
    with _children(folder, max(counts), threads) as children:
        for count in counts:
            rates = []
            for precision in ("fp32", "bf16"):
                for child in children[:count]:
                    _say(child, f"{precision} {seconds}")
                done = [json.loads(_hear(child)) for child in children[:count]]
                rates.append(sum(steps / took for steps, took in done))
            print(f"{count:<34}{rates[0]:>18.1f}{rates[1]:>12.1f}", flush=True)


@contextmanager
def _children(folder: Path, number: int, threads: int) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--child", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603
        for _ in range(number)
    ]
    try:
        for child in children:
            _hear(child)
        yield children
    finally:
        for child in children:
            child.kill()


def _say(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdin is not None  # noqa: S101
    child.stdin.write(line + "\n")
    child.stdin.flush()


def _hear(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None  # noqa: S101
    while not (line := child.stdout.readline()).startswith("["):
        if not line:
            raise RuntimeError("a process of the benchmark has ended")
    return line


def _be_child(folder: Path, ranks: Ranks) -> None:
    """Train for as long as each line of standard input says, and answer with steps and seconds."""
    rows = _examples(64 * BATCH)
    cells = {precision: _cell(folder, len(rows), precision) for precision in ("fp32", "bf16")}
    long = {"duration": Epochs(epochs=1000)}
    cells = {
        key: cell.model_copy(update={"recipe": cell.recipe.model_copy(update=long)}) for key, cell in cells.items()
    }
    network = Network.load(cells["fp32"].model, 2, cells["fp32"].recipe, Places({"bench": folder}))
    network.module.to(ranks.device)

    def steps_in(precision: str, seconds: float, warm: int) -> tuple[int, float]:
        """Steps after `warm` ones, and the seconds that they took."""
        network.prepare(cells[precision], 1)
        began: list[float] = []
        steps = 0

        def on_step(step: int, _loss: float) -> None:
            nonlocal steps
            if step == warm:
                began.append(time.perf_counter())
            if began and time.perf_counter() - began[0] > seconds:
                steps = step - warm
                raise EnoughError

        with suppress(EnoughError):
            train(network, rows, cells[precision], 1, ranks, on_step)
        return steps, time.perf_counter() - began[0]

    for precision in cells:
        steps_in(precision, 0, FIRST)
    print("[]", flush=True)
    for line in sys.stdin:
        precision, seconds = line.split()
        print(json.dumps(steps_in(precision, float(seconds), WARM)), flush=True)


if __name__ == "__main__":
    main()
