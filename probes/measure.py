"""Read every target at every site, beside everything a score is held against, in two passes over the programs.

The first pass gathers what the probes are fitted from (training and validation programs), of the model and of its
untrained twin; the second reads the validation and the test programs and tallies what was right. Activations are held
batch by batch, so memory does not grow with the programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cadmus import vm
from probes import reading
from probes.bank import Bank, Rows
from probes.baselines import Baselines
from probes.codelength import online_code_length
from probes.controls import leaked
from probes.custom import EstimatorReadouts, Probe
from probes.examples import TRUE, Examples, Labelled, Target, labelled
from probes.harvest import Batch, stream
from probes.reading import Readouts
from probes.tally import Groups, Tally, clusters_of

TRAINED, UNTRAINED = "trained", "untrained"
SAMPLE_ROWS = 8_192  # training tokens that code length, and probes that need rows, are given

Progress = Callable[[str, float], None]  # told the stage and the share of it done


@dataclass(frozen=True)
class Measured:
    """What was read, over the test programs' clusters.

    tallies by (TRAINED or UNTRAINED, site); baselines by name; counts: as if all were right, so that `right` is the
    number of tokens; moments: as if 0, and 1, were read everywhere, so that `error` is the sum of (y - 0)², (y - 1)².
    validation [targets] by site: the share right in validation programs. bits [targets] by site: online code length per
    label. outside [targets]: tokens left out of training, |value| > 99. differing [targets]: of an alternative
    machine's labels, the share that the true machine's are not. programs: tested.
    """

    targets: tuple[Target, ...]
    sites: tuple[str, ...]
    groups: Groups
    clusters: np.ndarray
    counts: Tally
    moments: tuple[Tally, Tally]
    tallies: dict[tuple[str, str], Tally]
    validation: dict[str, np.ndarray]
    baselines: dict[str, Tally]
    readouts: dict[tuple[str, str], Readouts]
    bits: dict[str, np.ndarray]
    outside: np.ndarray
    differing: np.ndarray
    programs: int


def measure(
    model: Any,
    examples: Examples,
    targets: Sequence[Target],
    sites: Sequence[str],
    *,
    twin: Any = None,
    machines: Mapping[str, vm.Semantics] | None = None,
    detailed: Sequence[int] = (),
    breakdowns: Callable[[Examples, Labelled], Groups] | None = None,
    probe: Probe | None = None,
    inspect: Callable[[str, Bank, Bank], None] | None = None,
    controls: bool = True,
    seed: int = 0,
    progress: Progress = lambda stage, share: None,
) -> Measured:
    """Fit a probe per (site, target) and tally what it reads in the test programs.

    model, and twin, its untrained twin: of any kind that `probes` runs on; machines: semantics of the targets' machines
    by name; detailed: targets (their places) that are broken down by `breakdowns`; probe: an estimator in place of the
    ridge and discriminant probes; inspect: shown each site's training and validation banks before they are dropped;
    controls: False leaves out the baselines and the code length.
    Raises ValueError where a skeleton is in two folds.
    """
    targets, sites, detailed = tuple(targets), tuple(sites), list(detailed)
    train, test = examples.fold("train"), examples.fold("test")
    leaked(train.skeletons, test.skeletons)
    models = {TRAINED: model} if twin is None else {TRAINED: model, UNTRAINED: twin}
    own = np.array([k for k, t in enumerate(targets) if t.machine == TRUE and not t.permuted])

    def read(part: Examples) -> Labelled:
        return labelled(part, targets, machines, seed)

    # --- fit
    sample = _first_rows(train, SAMPLE_ROWS)
    banks: dict[tuple[str, str, str], Bank] = {}
    baselines = Baselines(targets, own) if controls else None
    outside = np.zeros(len(targets), np.int64)
    total = len(train) + len(examples.fold("validation"))
    done = 0
    for fold in ("train", "validation"):
        for part in examples.fold(fold).chunks():
            labels = read(part)
            outside += labels.outside
            if baselines:
                baselines.add(part, labels, fold)
            for batches in _together(models, part, sites) if probe is None else ():
                at = next(iter(batches.values()))
                values, defined = labels.at(at.programs, at.positions)
                rows = Rows.of(values, defined, labels.mask_of)
                for name, batch in batches.items():
                    wanted = rows if name == TRAINED else replace(rows, codes=np.ascontiguousarray(rows.codes[:, own]))
                    mask_of = labels.mask_of if name == TRAINED else labels.mask_of[own]
                    for site, x in batch.activations.items():
                        key = (fold, name, site)
                        if key not in banks:
                            banks[key] = Bank(x.shape[1], mask_of, masks=defined.shape[1])
                        banks[key].update(x, wanted)
            done += len(part)
            progress("gather activations", done / total)
    readouts: dict[tuple[str, str], Readouts] = {}
    bits: dict[str, np.ndarray] = {}
    named = {TRAINED: targets, UNTRAINED: tuple(targets[k] for k in own)}
    sampled = read(sample)
    for k, (name, site) in enumerate((name, site) for name in models for site in sites):
        if probe is None:
            pair = (banks.pop(("train", name, site)), banks.pop(("validation", name, site)))
            readouts[name, site] = reading.fit(*pair, named[name])
            if inspect is not None and name == TRAINED:
                inspect(site, *pair)
        progress("fit probes", (k + 1) / (len(models) * len(sites)))
    for name in models if probe is not None else (TRAINED,) if controls else ():
        where, x = _rows(models[name], sample, sites)
        values, defined = sampled.at(*where)
        shown = defined[:, sampled.mask_of]
        for k, site in enumerate(sites):
            if probe is not None:
                chosen = np.arange(len(targets)) if name == TRAINED else own
                readouts[name, site] = EstimatorReadouts.fit(
                    probe, x[site], values[:, chosen], shown[:, chosen], named[name]
                )
            if name == TRAINED:
                bits[site] = _code_length(x[site], values, shown, where[0], targets)
            progress("code length", (k + 1) / len(sites))
    if baselines:
        baselines.fit(seed)
    # --- read
    clusters = clusters_of(test.skeletons, len(test))
    size = int(clusters.max()) + 1
    rank = np.full(len(targets), -1)
    rank[detailed] = np.arange(len(detailed))
    groups = (breakdowns or _no_breakdowns)(test, read(test)) if detailed else _no_breakdowns(test, None)

    def tally(of: np.ndarray | slice = slice(None)) -> Tally:
        return Tally(size, rank[of], len(groups.names))

    tallies = {(name, site): tally() if name == TRAINED else tally(own) for name in models for site in sites}
    counts, moments = tally(), (tally(), tally())
    held = {name: tally(own) for name in (baselines.names if baselines else ())}
    validation = {site: np.zeros((2, len(targets))) for site in sites}
    same = np.array([targets.index(replace(t, machine=TRUE, permuted=False)) for t in targets])
    differing = np.zeros((2, len(targets)))
    begin, done, total = 0, 0, len(test) + len(examples.fold("validation"))
    for part in examples.fold("validation").chunks():
        labels = read(part)
        for batch in stream(model, part.programs, sites, where=part.where):
            values, defined = labels.at(batch.programs, batch.positions)
            shown = defined[:, labels.mask_of]
            for site, x in batch.activations.items():
                right = (np.rint(readouts[TRAINED, site].predict(x)) == values) & shown
                validation[site] += np.stack([right.sum(0), shown.sum(0)])
        done += len(part)
        progress("read states", done / total)
    for part in test.chunks():
        labels = read(part)
        codes = groups.codes[begin : begin + len(part)]
        for batches in _together(models, part, sites):
            at = batches[TRAINED]
            values, defined = labels.at(at.programs, at.positions)
            shown = defined[:, labels.mask_of]
            about = (clusters[begin + at.programs], codes[at.programs, at.positions])
            counts.add(values, values, shown, *about)
            differing += _differing(values, shown, same)
            for power, moment in enumerate(moments):  # squared errors of reading 0, and 1, everywhere
                moment.add(np.full(values.shape, power), values, shown, *about)
            for (name, site), found in tallies.items():
                chosen = slice(None) if name == TRAINED else own
                predicted = readouts[name, site].predict(batches[name].activations[site])
                found.add(predicted, values[:, chosen], shown[:, chosen], *about)
            for name, predicted in baselines.predict(part, at.programs, at.positions) if baselines else ():
                held[name].add(predicted, values[:, own], shown[:, own], *about)
        begin += len(part)
        done += len(part)
        progress("read states", done / total)
    return Measured(
        targets,
        sites,
        groups,
        clusters,
        counts,
        moments,
        tallies,
        {site: right / np.maximum(n, 1) for site, (right, n) in validation.items()},
        held,
        readouts,
        bits,
        outside,
        differing[0] / np.maximum(differing[1], 1),
        len(test),
    )


def _together(models: Mapping[str, Any], part: Examples, sites: Sequence[str]) -> Iterator[dict[str, Batch]]:
    """The same tokens of several models, batch by batch."""
    streams = [stream(model, part.programs, sites, where=part.where) for model in models.values()]
    for batches in zip(*streams, strict=True):
        yield dict(zip(models, batches, strict=True))


def _first_rows(examples: Examples, rows: int) -> Examples:
    """The first programs (their order is random) that have about `rows` tokens."""
    ends = examples.where.sum(1).cumsum()
    return examples[: max(1, int(np.searchsorted(ends, rows, "right")))]


def _rows(
    model: Any, examples: Examples, sites: Sequence[str]
) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """Which tokens, and the activations of all of them, program after program in the order of `examples`."""
    batches = list(stream(model, examples.programs, sites, where=examples.where))
    programs, positions = (np.concatenate([getattr(b, name) for b in batches]) for name in ("programs", "positions"))
    order = np.lexsort((positions, programs))
    x = {site: np.concatenate([b.activations[site] for b in batches])[order] for site in sites}
    return (programs[order], positions[order]), x


def _code_length(
    x: np.ndarray, values: np.ndarray, shown: np.ndarray, programs: np.ndarray, targets: Sequence[Target]
) -> np.ndarray:
    """Bits per label of the machine's present states, real and permuted: [targets], NaN for others."""
    bits = np.full(len(targets), np.nan)
    present = [
        k
        for k, target in enumerate(targets)
        if (target.offset, target.machine, target.as_number) == (0, TRUE, False)
        and len(np.unique(values[shown[:, k], k])) > 1
    ]
    if present:
        bits[present] = online_code_length(x, values[:, present], shown[:, present], programs).bits
    return bits


def _differing(values: np.ndarray, shown: np.ndarray, same: np.ndarray) -> np.ndarray:
    """How many labels are another than, or defined where, those of the targets `same` are not; and how many there are:
    [2, targets]."""
    other = shown & ((values != values[:, same]) | ~shown[:, same])
    return np.stack([other.sum(0), shown.sum(0)])


def _no_breakdowns(examples: Examples, labels: Labelled | None) -> Groups:
    return Groups((("all", "all"),), np.zeros((*examples.where.shape, 0), np.int16))
