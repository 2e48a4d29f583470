"""One variable of a model, tested in one call: readable? read? used? where, for how long, and what of its dead values?

    test(model, "reg.a") -> Experiment
        .summary      one row per stratum: the answers
        .effects      a row per kind of pair, stratum, layer, role and span (`probes.interventions.effects.effects`)
        .verdicts     the rows that may claim something, in words (`probes.interventions.effects.verdicts`)
        .readable     a row per layer and role: a probe of the value where it is patched, beside its controls
        .persistence  accuracy by the distance between patch and decision
        .dead         what patching a dead value does
        .heads, .edges, .mechanism    by which heads, along which edges of the data flow, tracked or looked up
        .attention, .knockouts, .paths    the tables beneath these, and paths between heads (`full`)
        .subspaces    the variable's subspace in its best cell, beside its controls (`full`)
        .attribution, .components    attribution of nodes and edges, held against patching them (`full`)

The state is patched in the residual stream after each layer, at the tokens that the machine names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cadmus.machine.tokens import text_list
from cadmus.models import backends
from cadmus.programs import mixture as mixtures
from cadmus.programs.mixture import Mixture
from cadmus.runtime import artifacts
from cadmus.runtime.progress import Progress, no_progress
from probes.controls.untrained import untrained_twin
from probes.data.activation_cache import weights_digest
from probes.interventions.attention.routes import routes
from probes.interventions.attribution.tables import attributions
from probes.interventions.counterfactuals import drawing
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.counterfactuals.variables import VARIABLES, PairVariable, resolve_variable
from probes.interventions.effects import verdicts
from probes.interventions.experiment import subspace_search
from probes.interventions.experiment.cells import INPUT_LAYER, Place, layers_of, spots_of
from probes.interventions.experiment.conditions import Laboratory, profile_table
from probes.interventions.experiment.persistence import dead_values, persistence
from probes.interventions.experiment.readability import readability
from probes.interventions.experiment.tables import effects_of, outcomes_of, summary_of

ARTIFACT = "experiment"
_MINIMAL = 0.2  # minimal pairs for each discriminating one
_PROBES = (3000, 2000), (1000, 600)  # programs, and steps of the network, by default and where it is quick
_DEAD = 100, 40  # programs with dead values, the same
_QUICK_PAIRS = 60
_TABLES = (
    "effects",
    "verdicts",
    "summary",
    "readable",
    "persistence",
    "dead",
    "heads",
    "edges",
    "mechanism",
    "profile",
    "attention",
    "knockouts",
    "paths",
    "subspaces",
    "attribution",
    "components",
)


class TooFewPairs(ValueError):
    """A mixture has too few pairs of a variable."""


@dataclass(frozen=True, repr=False)
class Experiment:
    """What was found about one variable of one model. Tables are None where nothing of the kind was asked."""

    variable: str
    """The variable's name."""
    pairs: Pairs
    """The pairs that all cells share."""
    effects: pd.DataFrame
    """As `effects.effects` makes it: a cell is the residual stream after `layer` (-1: before the first block) at a
    `role` over a `span`. Success is decided at the first answer (`conditions`), and `changed` and `damage`
    are about it. `consistent`: of the interchanges after whose edited answer the model asserts something else
    (`consistent_n`), the share whose whole program is true of the edited state and has its family's form. A control's
    share and d are of the pairs that have a source for it, `chance` of those with others of their family, `positive` of
    those in which the input tokens ask for another answer; NaN where there is none. Where `has_controls` is False,
    controls are NaN and d is the accuracy, which is no more than 0.05 (`controls_note` says so)."""
    verdicts: pd.DataFrame
    """As `verdicts.verdicts` makes it."""
    summary: pd.DataFrame
    """A row per stratum: `variable`, `stratum`, `readable` and `read` (all roles with the layers at which the word is
    claimed of the stratum; empty where it is claimed nowhere, None where no probe could be scored), `used` (the
    verdict; undecided where a literal moves the answer only where its digit stands), `where` (layer and role of the
    largest d), `accuracy`, `d`, `d_low`, `d_high`, `mechanism`, `heads`, `pairs` that count, of `drawn`, `notes`."""
    readable: pd.DataFrame
    """As `readability.readability` makes it."""
    persistence: pd.DataFrame
    """As `persistence.persistence` makes it."""
    dead: pd.DataFrame | None
    """As `persistence.dead_values` makes it."""
    heads: pd.DataFrame
    """A row per head, as `routes.Routes.heads`."""
    edges: pd.DataFrame
    """A row per layer and kind of edge, as `routes.Routes.edges`."""
    mechanism: pd.DataFrame
    """Tracked at the store or looked up at the load, as `mechanism.mechanism`."""
    profile: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What was computed: texts and seconds per condition."""
    attention: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row per kind of edges, layer and head, as `flow.attention_flow`."""
    knockouts: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row per kind of edges, layer and head, as `knockouts.knockouts`; -1 stands for all."""
    paths: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Paths between the heads that stand out, as `paths.path_grid`; empty unless `full`."""
    subspaces: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row per method: the subspace in the cell where the exchange does most, as `subspace_search.subspaces`; empty
    unless `full`."""
    attribution: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row per type of component: how near attribution comes to patching, as `attribution.tables.attributions`; empty
    unless `full`."""
    components: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row per node and edge with what attribution says of it and what patching does; empty unless `full`."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What it was made of: `model` (a digest of the weights), `architecture`, `mixture`, `machine`, `config`,
    `fingerprint`, `versions`."""

    def __repr__(self) -> str:
        words = ", ".join(f"{row.stratum}: {row.used}" for row in self.summary.itertuples())
        return f"Experiment({self.variable}: {words}; {len(self.pairs)} pairs)"

    def _repr_html_(self) -> str:
        return self.summary.to_html(index=False, float_format="{:.2f}".format)

    def save(self, folder: str | Path) -> Path:
        """Write the tables as Parquet and the pairs, into a folder with a manifest that holds `about`. Raises
        ArtifactError where the folder holds something else."""
        with artifacts.new_folder(folder, ARTIFACT, variable=self.variable, about=dict(self.about)) as place:
            self.pairs.save(place / "pairs")
            for name in _TABLES:
                table = getattr(self, name)
                if table is not None:
                    _storable(table).to_parquet(place / f"{name}.parquet", index=False)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, fingerprint: str | None = None) -> Experiment:
        """Read what `save` wrote. Raises ArtifactError for what is missing, damaged, of another kind, or, where a
        `fingerprint` is given, made of anything else."""
        manifest = artifacts.read_manifest(folder, ARTIFACT)
        fingerprint_there = manifest["about"].get("fingerprint")
        if fingerprint is not None and fingerprint_there != fingerprint:
            raise artifacts.ArtifactError(
                f"{folder} was made of another model, mixture or configuration (fingerprint {fingerprint_there}, "
                f"not {fingerprint}); make it again"
            )
        paths = {name: Path(folder) / f"{name}.parquet" for name in _TABLES}
        tables = {name: _stored(pd.read_parquet(path)) if path.is_file() else None for name, path in paths.items()}
        pairs = Pairs.load(Path(folder) / "pairs")
        return cls(variable=manifest["variable"], pairs=pairs, about=manifest["about"], **tables)  # type: ignore[arg-type]


def test(
    model: Any,
    variable: str | PairVariable,
    *,
    mixture: Mixture | None = None,
    pairs: int | Pairs = 300,
    seed: int = 0,
    untrained: Any = None,
    layers: Sequence[int] | None = None,
    roles: Sequence[str] | None = None,
    quick: bool = False,
    full: bool = False,
    progress: Progress = no_progress,
) -> Experiment:
    """Test whether a model holds and uses a variable.

    Args:
        model: of any backend (`cadmus.models.backends`).
        variable: of `counterfactuals.VARIABLES`, or a row for that table.
        mixture: whose programs are drawn; None: the default one.
        pairs: how many discriminating pairs, with a fifth as many minimal ones; or pairs that have been made. *Unused*
            asks for 200 in every cell and of each stratum; what reaches that is said where it is not reached.
        seed: fixes pairs, random vectors and resamples.
        untrained: the untrained twin; None: the model's architecture with weights drawn by `seed`.
        layers: after which the residual stream is patched (-1: before the first block); None: all.
        roles: of `cadmus.states.provenance.ROLES`; None: all that some pair has, and all of them together.
        quick: at most 60 pairs and no minimal ones, every second layer, a third of the programs for probes, and of the
            edges each kind as a whole alone.
        full: every span of roles, controls in every cell, all kinds of edges on all pairs, paths between heads, a
            search for the variable's subspace on new pairs, and attribution; five times the work.
        progress: follows the stages.

    Raises:
        TooFewPairs: a ValueError: a family with too few pairs (none whose answers differ).
        ValueError: an unknown variable, role or layer; a role that no pair has; a model without room for a pair's
            program and its answer.
    """
    row = resolve_variable(variable)
    roles = None if roles is None else text_list(roles, "roles")
    mixture = mixtures.load("default") if mixture is None else mixture
    chosen_layers = layers_of(model, layers, quick)
    drawn = _pairs(row, mixture, pairs, seed, quick, progress)
    _check_room(model, drawn)
    twin = untrained_twin(model, seed) if untrained is None else untrained
    places = [Place.of(drawn, spot) for spot in spots_of(drawn, roles, full)]
    lab = Laboratory(model, twin, drawn, places, chosen_layers, seed)
    measured = lab.measure(full, progress)
    programs, steps = _PROBES[quick]
    readable = readability(
        model, twin, row, mixture, chosen_layers, programs=programs, steps=steps, seed=seed, progress=progress
    )
    outcomes, known = outcomes_of(lab, measured, row)
    table = effects_of(outcomes, known, lab, measured, readable, seed)
    words = verdicts.verdicts(table)
    value_routes = routes(
        model,
        drawn,
        own=lab.own,
        outcomes=outcomes,
        untrained=twin,
        quick=quick,
        full=full,
        seed=seed,
        progress=progress,
    )
    inner_layers = [layer for layer in chosen_layers if layer != INPUT_LAYER]
    dead = dead_values(model, row, mixture, inner_layers, pairs=_DEAD[quick], seed=seed, progress=progress)
    more = _full_tables(model, twin, row, mixture, drawn, words, lab, seed, progress) if full else {}
    return Experiment(
        variable=row.name,
        pairs=drawn,
        effects=table,
        verdicts=words,
        summary=summary_of(words, readable, value_routes.word, value_routes.needed_heads),
        readable=readable,
        persistence=persistence(lab, measured),
        dead=dead,
        heads=value_routes.heads,
        edges=value_routes.edges,
        mechanism=value_routes.mechanism,
        profile=profile_table(measured),
        attention=value_routes.attention,
        knockouts=value_routes.knockouts,
        paths=value_routes.paths,
        **more,
        about=about(model, mixture, _config(row, pairs, seed, untrained, layers, roles, quick, full)),
    )


def _config(
    variable: PairVariable,
    pairs: int | Pairs,
    seed: int,
    untrained: Any,
    layers: Sequence[int] | None,
    roles: Sequence[str] | None,
    quick: bool,
    full: bool,
) -> dict[str, Any]:
    """What was asked for, as `about` keeps it: what was given in place of a name or number by what it holds."""
    return ({} if untrained is None else {"untrained": weights_digest(untrained)[:16]}) | {
        "variable": variable.name if VARIABLES.get(variable.name) == variable else repr(variable),
        "pairs": pairs if isinstance(pairs, int) else pairs.fingerprint,
        "seed": seed,
        "layers": None if layers is None else list(map(int, layers)),
        "roles": roles,
        "quick": quick,
        "full": full,
    }


def _full_tables(
    model: Any,
    twin: Any,
    variable: PairVariable,
    mixture: Mixture,
    pairs: Pairs,
    words: pd.DataFrame,
    lab: Laboratory,
    seed: int,
    progress: Progress,
) -> dict[str, pd.DataFrame]:
    """The tables that only `full` has."""
    cell = subspace_search.best_cell(words)
    subspaces = subspace_search.subspaces(model, twin, variable, mixture, cell, pairs, seed=seed, progress=progress)
    relevance, components = attributions(model, pairs, np.asarray(lab.counts.any(0)), seed=seed, progress=progress)
    return {"subspaces": subspaces, "attribution": relevance, "components": components}


def about(model: Any, mixture: Mixture, config: Mapping[str, Any]) -> dict[str, Any]:
    """What an experiment is made of, and its `fingerprint`: the same for the same weights, mixture, machine
    and config."""
    made_of = {
        "model": weights_digest(model)[:16],
        "architecture": repr(backends.config(model)),
        "mixture": mixture.fingerprint,
        "machine": artifacts.machine_fingerprint(),
        "config": dict(config),
    }
    return {**made_of, "fingerprint": artifacts.fingerprint(made_of), "versions": artifacts.provenance()}


# --- pairs -----------------------------------------------------------------------------------------------------------


def _pairs(
    variable: PairVariable, mixture: Mixture, pairs: int | Pairs, seed: int, quick: bool, progress: Progress
) -> Pairs:
    """Discriminating pairs, and some minimal ones behind them."""
    if isinstance(pairs, Pairs):
        if not len(pairs):
            raise ValueError("there are no pairs; draw some")
        return replace(pairs, about={**pairs.about, "reads": variable.reads})
    n = min(pairs, _QUICK_PAIRS) if quick else pairs
    if n < 1:
        raise ValueError(f"{n} pairs are asked for; ask for one or more")
    sizes = {"discriminating": n} if quick else {"discriminating": n, "minimal": max(1, round(_MINIMAL * n))}
    try:
        parts = [
            drawing.draw(variable, mixture, size, seed, kinds=[kind], progress=progress) for kind, size in sizes.items()
        ]
    except ValueError as error:
        raise TooFewPairs(str(error)) from error
    if quick:
        return replace(parts[0], about={**parts[0].about, "reads": variable.reads})
    taken = set(parts[0].pairs["base"])
    parts[1] = parts[1].select(~parts[1].pairs["base"].isin(taken).to_numpy())
    tables = [part.pairs for part in parts]
    tables[1] = tables[1].assign(pair=tables[1]["pair"] + len(tables[0]))
    roles = [parts[0].roles, parts[1].roles.assign(pair=parts[1].roles["pair"] + len(tables[0]))]
    of_what = {**parts[0].about, "reads": variable.reads}
    table, role_table = (pd.concat(several, ignore_index=True) for several in (tables, roles))
    return Pairs(table, role_table, parts[0].families, of_what)


def _check_room(model: Any, pairs: Pairs) -> None:
    longest = max(len(text) for text in pairs.pairs["base"])
    if longest + 2 > model.cfg.n_ctx:
        raise ValueError(
            f"the longest base has {longest} tokens, and with its marker no room for an answer in n_ctx = "
            f"{model.cfg.n_ctx}; draw pairs from a mixture with shorter programs"
        )


def _storable(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns of flags that may be missing as pandas' nullable booleans, which Parquet holds."""
    flags = [name for name in ("readable", "read") if name in table and not table[name].map(_is_text).any()]
    return table.astype(dict.fromkeys(flags, "boolean"))


def _stored(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it was before `_storable`: flags that may be missing are True, False or None."""
    flags = [name for name in ("readable", "read") if name in table and table[name].dtype == "boolean"]
    objects = {name: [None if pd.isna(flag) else bool(flag) for flag in table[name]] for name in flags}
    return table.assign(**{name: pd.Series(values, table.index, object) for name, values in objects.items()})


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
