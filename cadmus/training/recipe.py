"""A recipe: the mixture, the model and the training that a trained model is a function of, as one TOML file."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cadmus import shipped
from cadmus.corpora import ordinary
from cadmus.corpora.build import build
from cadmus.corpora.corpus import Corpus, fingerprint
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs import mixture
from cadmus.programs.mixture import Mixture, check_storable
from cadmus.runtime import artifacts, tables
from cadmus.runtime.checks import check_name
from cadmus.runtime.devices import AUTO
from cadmus.runtime.folder_lock import sole_writer
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.workers import check_guard
from cadmus.training import checkpoint
from cadmus.training.config import TrainConfig, check_fits
from cadmus.training.distributed import rank
from cadmus.training.loop import Note, Source, train

MAX_PROGRAMS = 2_000_000  # of a corpus whose size nobody states
_D_HEAD = 32  # where a recipe does not state it


@dataclass(frozen=True)
class Recipe:
    """What a model is trained on, its architecture, and how it is trained. Raises ValueError for contradictions."""

    name: str
    """What the recipe is called."""

    mixture: Mixture
    """The distribution of programs."""

    cfg: ModelConfig
    """The architecture."""

    train: TrainConfig
    """How the model is trained."""

    programs: int = 0
    """The size of the corpus; 0: what the run reads, so that no program comes twice, at most two million."""

    stream: bool = False
    """Draw programs as they are needed, in place of a corpus."""

    start: str = ""
    """The model whose weights training begins with, a folder or one that ships, of the same architecture; empty: random
    weights."""

    ordinary: bool = False
    """Train on the same programs with their truth destroyed (`cadmus.corpora.ordinary`), for comparison."""

    def __post_init__(self) -> None:
        check_name(self.name, "recipe name", "its runs lie in runs/NAME")
        if self.programs < 0:
            raise ValueError(f"recipe {self.name!r}: programs = {self.programs} must be 0 or more")
        if self.stream and self.programs:
            raise ValueError(f"recipe {self.name!r}: a stream has no size; leave out programs, or stream")
        if self.stream and self.ordinary:
            raise ValueError(
                f"recipe {self.name!r}: an ordinary twin is made of a whole corpus, not of a stream; "
                "leave out ordinary, or stream"
            )
        check_fits(self.mixture, self.cfg)

    @property
    def size(self) -> int:
        """Programs of the corpus."""
        return self.programs or min(self.train.steps * self.train.batch_size, MAX_PROGRAMS)


def train_recipe(
    recipe: Recipe,
    folder: Path | str,
    *,
    corpus: Corpus | None = None,
    device: str = "cpu",
    workers: int = 0,
    progress: Progress = no_progress,
    note: Note = lambda text: None,
) -> checkpoint.Checkpoint | None:
    """Train a model by the recipe and save it; a killed run goes on from its last state, a finished one is returned.

    Args:
        recipe: the recipe.
        folder: where the model is written.
        corpus: takes the place of one built for the run; an ordinary recipe trains on the twin of either.
        device: cpu, cuda, cuda:1, mps.
        workers: processes that draw the programs; 0: this one.
        progress: follows the stages.
        note: is told what a person should know of the run.

    Returns:
        The checkpoint; None in all but the first of several processes that train together.

    Raises:
        ValueError: the corpus is of another mixture, a family is not registered, or the state in the folder is of
            another run.
        ArtifactError: the folder holds something else, the model of another run too, or another run writes to it.
        FloatingPointError: as `train`.
    """
    if workers:
        check_guard()
    _check_corpus(recipe, corpus)
    check_storable(recipe.mixture if corpus is None else corpus.mixture)
    with sole_writer(folder) if rank() == 0 else contextlib.nullcontext():
        return _train(recipe, folder, corpus, device, workers, progress, note)


def _train(
    recipe: Recipe,
    folder: Path | str,
    corpus: Corpus | None,
    device: str,
    workers: int,
    progress: Progress,
    note: Note,
) -> checkpoint.Checkpoint | None:
    """`train_recipe` in a folder that is held."""
    model, start, before = _initial_model(recipe)
    finished = _finished_model(recipe, corpus, start, folder)
    if finished is not None:
        return finished if rank() == 0 else None
    source = _source(recipe, corpus, workers, progress)
    progress("measure the machine", 0.0, "how fast its products are")
    model = model.to(device)
    record = train(model, source, recipe.train, progress, folder=folder, workers=workers, note=note, start=start)
    if rank() != 0:
        return None
    result = checkpoint.save(folder, model, recipe.mixture, {"recipe": recipe.name, **record, "before": before})
    checkpoint.drop_state(folder)
    return result


def _check_corpus(recipe: Recipe, corpus: Corpus | None) -> None:
    """Raise ValueError where the corpus is not of the recipe's mixture."""
    if corpus is not None and corpus.mixture.fingerprint != recipe.mixture.fingerprint:
        raise ValueError(
            f"the corpus is of mixture {corpus.mixture.name!r}, the recipe asks for {recipe.mixture.name!r}"
        )


def _initial_model(recipe: Recipe) -> tuple[Model, str, list[dict[str, Any]]]:
    """The model that training begins with, its fingerprint (empty where its weights are random), and the records of the
    runs that made it, the first one first."""
    if not recipe.start:
        return Model(recipe.cfg, seed=recipe.train.seed), "", []
    initial = checkpoint.load(recipe.start)
    cfg = initial.model.cfg.to_dict()
    differing = [name for name, value in recipe.cfg.to_dict().items() if cfg.get(name) != value]
    if differing:
        raise ValueError(
            f"recipe {recipe.name!r} begins with {recipe.start}, which is of another architecture "
            f"({', '.join(differing)} differ); make [model] the same, or begin with random weights"
        )
    last = {name: value for name, value in initial.record.items() if name != "before"}
    return initial.model, initial.fingerprint, [*initial.record.get("before", []), last]


def _finished_model(
    recipe: Recipe, corpus: Corpus | None, start: str, folder: Path | str
) -> checkpoint.Checkpoint | None:
    """The model that the recipe has already made in the folder of these programs and initial weights, if any."""
    artifacts.check_free(folder, "model")
    if not (Path(folder) / artifacts.MANIFEST).exists():
        return None
    finished = checkpoint.load(folder)
    record = finished.record
    actual = {
        **record.get("config", {}),
        **finished.model.cfg.to_dict(),
        "programs": finished.corpus_fingerprint,
        "start": record.get("start", ""),
    }
    expected = {
        **asdict(recipe.train),
        **recipe.cfg.to_dict(),
        "programs": _programs_fingerprint(recipe, corpus),
        "start": start,
    }
    if recipe.train.precision == AUTO:
        del expected["precision"]  # it does not matter in which the model was made
    elif record.get("stretches"):
        actual["precision"] = record["stretches"][-1]["precision"]
    differing = [name for name in expected if actual.get(name) != json.loads(json.dumps(expected[name]))]
    if differing:
        raise artifacts.ArtifactError(
            f"{folder} holds the finished model of another run ({', '.join(differing)} differ); choose another folder, "
            "or delete it"
        )
    checkpoint.drop_state(folder)  # what a run leaves that is killed when its model is saved already
    return finished


def _programs_fingerprint(recipe: Recipe, corpus: Corpus | None) -> str:
    """The fingerprint of the programs that the recipe trains on."""
    if corpus is not None:
        programs = corpus.fingerprint
    elif recipe.stream:
        programs = recipe.mixture.fingerprint
    else:
        programs = fingerprint(recipe.mixture, recipe.train.seed, recipe.size)
    return ordinary.fingerprint(programs) if recipe.ordinary else programs


def _source(recipe: Recipe, corpus: Corpus | None, workers: int, progress: Progress) -> Source:
    """What the recipe trains on: the stream, or a corpus, which is built unless there is one, or its ordinary twin."""
    if recipe.stream and corpus is None:
        return recipe.mixture
    if corpus is None:
        corpus = build(recipe.mixture, recipe.size, recipe.train.seed, workers=workers, progress=progress)
    if recipe.ordinary:
        progress("exchange the answers", 0.0, "of the corpus")
        return ordinary.twin(corpus)
    return corpus


# --- TOML ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _RecipeTable:
    """A recipe as its TOML file has it."""

    name: str
    mixture: str
    programs: int = 0
    stream: bool = False
    start: str = ""
    ordinary: bool = False
    model: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)


def load(source: str | Path) -> Recipe:
    """Read the recipe in a TOML file, or one that ships with the package, by name (`shipped.names("recipes")`).

    A mixture is named as `mixture.load` takes it, a file beside the recipe too; so is the folder of `start`. Raises
    ValueError, in one line, for malformed TOML and for anything unknown, ill-typed or out of bounds.
    """
    path = shipped.file_of("recipes", source)
    if path is None:
        names = ", ".join(shipped.names("recipes"))
        raise ValueError(f"no recipe {str(source)!r}; name a TOML file or one of {names}")
    folder = path.parent if path == Path(source) else Path()  # beside the file, or in the working folder
    return tables.parse_toml(artifacts.read_text(path), str(source), lambda data: _from_dict(data, folder))


def _from_dict(data: dict[str, Any], folder: Path) -> Recipe:
    """The recipe that the tables describe; `folder` is where its mixture and the model to start with may lie."""
    known = tables.field_types(_RecipeTable)
    for name in data:
        if name not in known:
            raise ValueError(f"a recipe has no {name!r}; it has {', '.join(known)}")
    if not {"name", "mixture"} <= data.keys():
        raise ValueError('a recipe is name = "...", mixture = "...", and tables [model] and [train]')
    beside = folder / str(data["mixture"])
    return from_tables(data, mixture.load(beside if beside.is_file() else str(data["mixture"])), folder)


def from_tables(data: dict[str, Any], recipe_mixture: Mixture, folder: Path = Path()) -> Recipe:
    """The recipe that tables describe, of this mixture whatever they name; `folder` is where the model to start with
    may lie. Raises ValueError for values of another type and for anything unknown in [model] and [train]."""
    known = tables.field_types(_RecipeTable)
    values = {"mixture": recipe_mixture.name, **data}
    table = _RecipeTable(**{name: tables.typed_value(value, known[name], name) for name, value in values.items()})
    start = table.start
    if start and (folder / start).is_dir():
        start = str(folder / start)
    return Recipe(
        name=table.name,
        mixture=recipe_mixture,
        cfg=_model_config(table.model, recipe_mixture),
        train=tables.from_table(TrainConfig, table.train, "train"),
        programs=table.programs,
        stream=table.stream,
        start=start,
        ordinary=table.ordinary,
    )


def _model_config(table: dict[str, Any], programs: Mixture) -> ModelConfig:
    """The architecture that a table [model] describes, sized for the programs of a mixture where it does not say."""
    values = tables.field_values(ModelConfig, table, "model")
    width = values.get("d_model", 128)
    defaults = {"n_layers": 4, "d_model": width, "d_mlp": 4 * width, "n_ctx": context(programs.width)}
    if "n_heads" in values:
        defaults["d_head"] = width // max(1, values["n_heads"])  # ModelConfig sees whether they divide the width
    else:
        d_head = values.get("d_head", _D_HEAD)
        defaults |= {"n_heads": _n_heads(width, d_head), "d_head": d_head}
    return ModelConfig(**(defaults | values))


def context(longest: int) -> int:
    """Positions for programs of `longest` tokens and for completions that go astray."""
    return 8 * -(-(longest + 5) // 8)


def _n_heads(width: int, d_head: int) -> int:
    """How many heads of this width a model has; ValueError where they do not divide its own."""
    if d_head < 1 or width < d_head or width % d_head:
        raise ValueError(f"width = {width} must be a multiple of {d_head}, one head each")
    return width // d_head


def with_changes(
    recipe: Recipe,
    *,
    layers: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    mixture: Mixture | None = None,
    precision: str | None = None,
    start: str | None = None,
) -> Recipe:
    """The recipe with some of it set anew; None leaves it.

    Another size of model, number of steps, seed, mixture, precision, or model to begin with. The context grows where
    the mixture's programs ask for it.
    """
    cfg = recipe.cfg
    if mixture is not None:
        cfg = replace(cfg, n_ctx=max(cfg.n_ctx, context(mixture.width)))
    if width is not None:
        cfg = replace(cfg, d_model=width, d_mlp=4 * width, n_heads=_n_heads(width, _D_HEAD), d_head=_D_HEAD)
    if layers is not None:
        cfg = replace(cfg, n_layers=layers)
    training = recipe.train
    if steps is not None:
        training = replace(training, steps=steps)
    if seed is not None:
        training = replace(training, seed=seed)
    if precision is not None:
        training = replace(training, precision=precision)
    return replace(
        recipe,
        mixture=recipe.mixture if mixture is None else mixture,
        cfg=cfg,
        train=training,
        start=recipe.start if start is None else start,
    )
