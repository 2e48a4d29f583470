"""Drawing programs: corpora against a plain generator, a stream against what training consumes."""

from __future__ import annotations

import random
import resource
import tempfile
import time
from itertools import islice

import joblib

from benchmarks import plain_programs
from benchmarks.measure import Measurement, benchmark
from cadmus.corpora.build import build
from cadmus.corpora.shards import stream_programs
from cadmus.machine import tokens
from cadmus.programs import mixture
from cadmus.programs.mixture import Mixture

PLAIN_PROGRAMS = 6_000  # that the plain generator draws
CORPUS_PROGRAMS = 4_000_000  # of the small corpus


@benchmark("programs")
def programs() -> list[Measurement]:
    """Four million programs of the paper mixture against a plain Python generator (>= 50 x)."""
    return _corpus("programs", CORPUS_PROGRAMS)


@benchmark("programs-paper", slow=True)
def programs_paper() -> list[Measurement]:
    """The whole paper mixture, 80.2 M programs (<= 5 minutes, <= 4 GiB; four minutes, 2 GB of disk)."""
    size = mixture.load("paper").programs
    rows = _corpus("programs-paper", size)
    minutes = size / rows[0].ours / 60
    # the peak of this process and, as if all of them had it at once, of the largest worker
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    largest_worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    peak = (own + _cores() * largest_worker) / 2**20
    return [
        *rows,
        Measurement("programs-paper, time", minutes, 5, 5 / minutes, "<= 5", "minutes", minutes <= 5, "peer: target"),
        Measurement("programs-paper, memory", peak, 4, 4 / peak, "<= 4", "GiB", peak <= 4, "peer: target; peak"),
    ]


def _cores() -> int:
    return joblib.cpu_count()


def _corpus(name: str, size: int) -> list[Measurement]:
    paper = mixture.load("paper")
    plain = _plain_rate(paper)
    build(paper, 20_000)  # compiled before it is timed
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        build(paper, size, folder=folder, workers=_cores())
        ours = size / (time.perf_counter() - start)
    note = f"{size:,} distinct programs, stored and checked, {_cores()} cores; peer: one at a time, one core"
    return [Measurement(name, ours, plain, ours / plain, ">= 50 x", "programs/s", ours / plain >= 50, note)]


def _plain_rate(paper: Mixture) -> float:
    """Distinct programs a second, drawn one at a time, in the mixture's proportions."""
    rng = random.Random(0)
    texts: set[str] = set()
    names = [family.name for family in paper.families]
    for name in names:
        plain_programs.draw(name, rng)  # pools, and what is compiled to make them, are there before it is timed
    start = time.perf_counter()
    while len(texts) < PLAIN_PROGRAMS:
        (name,) = rng.choices(names, paper.shares)
        texts.add(plain_programs.draw(name, rng))
    return PLAIN_PROGRAMS / (time.perf_counter() - start)


@benchmark("stream")
def streaming() -> list[Measurement]:
    """Programs streamed by one process against what training consumes on all cores (>= 3 x)."""
    import torch

    from cadmus.models.config import ModelConfig
    from cadmus.models.model import Model
    from cadmus.training.config import TrainConfig
    from cadmus.training.loop import train

    default = mixture.load("default")
    next(stream_programs(default))
    n_tokens = 0
    start = time.perf_counter()
    for batch, _ in islice(stream_programs(default, start=1), 10):
        n_tokens += int(tokens.lengths(batch).sum()) + len(batch)
    supply = n_tokens / (time.perf_counter() - start)
    torch.set_num_threads(_cores())
    n_ctx = 8 * -(-(default.width + 1) // 8)
    cfg = ModelConfig(n_layers=4, d_model=128, n_heads=4, d_head=32, d_mlp=512, n_ctx=n_ctx)
    corpus = build(default, 20_000)
    steps = TrainConfig(steps=12)
    train(Model(cfg, seed=0), corpus, TrainConfig(steps=2))
    record = train(Model(cfg, seed=0), corpus, steps)
    use = record["tokens"] / record["seconds"]
    note = f"default mixture, one core; peer: training {record['parameters'] / 1e6:.1f} M parameters, all cores"
    return [Measurement("stream", supply, use, supply / use, ">= 3 x", "tokens/s", supply >= 3 * use, note)]
