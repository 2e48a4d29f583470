"""A recipe: the mixture, the model and the training that a trained model is a function of, as one TOML file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from cadmus import shipped
from cadmus.corpora import ordinary
from cadmus.corpora.build import build
from cadmus.corpora.corpus import Corpus, fingerprint
from cadmus.models.model import Model, ModelConfig
from cadmus.programs import mixture
from cadmus.programs.mixture import Mixture
from cadmus.runtime import artifacts
from cadmus.runtime.devices import AUTO
from cadmus.training import checkpoint
from cadmus.training.distributed import rank
from cadmus.training.loop import Note, Source, TrainConfig, check_fits, train

Stage = Callable[[str, float, str], None]  # told of the stage, the share of it done, and a note

MAX_PROGRAMS = 2_000_000  # of a corpus whose size nobody states
_HEAD = 32  # width of a head, where a recipe does not say


@dataclass(frozen=True)
class Recipe:
    """What a model is trained on, its architecture, and how it is trained.

    programs: the size of the corpus; 0: what the run reads, so that none comes twice, at most two million. stream: draw
    programs as they are needed, in place of a corpus. start: the model whose weights training begins with, a folder or
    one that ships, of the same architecture; empty: random weights. ordinary: train on the same programs with their
    truth destroyed (`cadmus.corpora.ordinary`), for comparison.
    """

    name: str
    mixture: Mixture
    cfg: ModelConfig
    train: TrainConfig
    programs: int = 0
    stream: bool = False
    start: str = ""
    ordinary: bool = False

    def __post_init__(self) -> None:
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
    stage: Stage = lambda name, share, note: None,
    note: Note = lambda text: None,
) -> checkpoint.Checkpoint | None:
    """Train a model by the recipe and save it to `folder`; a killed run goes on from its last state, and a finished one
    is returned as it is.

    `corpus`, of the recipe's mixture, takes the place of one built for the run; an ordinary recipe trains on the twin
    of either. `workers` processes draw the programs; 0: this one. Of several processes that train together, the first
    returns the model, the others None. ArtifactError where the folder holds something else, the model of another run
    too.
    """
    if corpus is not None and corpus.mixture.fingerprint != recipe.mixture.fingerprint:
        raise ValueError(
            f"the corpus is of mixture {corpus.mixture.name!r}, the recipe asks for {recipe.mixture.name!r}"
        )
    model, start = _first_weights(recipe)
    finished = _finished(recipe, corpus, start, folder)
    if finished is not None:
        return None if rank() else finished

    def built(done: int, family: str) -> None:
        stage("build the corpus", done / recipe.size, f"{done:,} programs")

    def trained(now: dict[str, float]) -> None:
        stage("train", now["step"] / recipe.train.steps, _told(now))

    source: Source = recipe.mixture if corpus is None else corpus
    if corpus is None and not recipe.stream:
        source = build(recipe.mixture, recipe.size, recipe.train.seed, workers=workers, progress=built)
    if recipe.ordinary:
        stage("exchange the answers", 0.0, "of the corpus")
        source = ordinary.twin(source)
    model = model.to(device)
    stage("measure the machine", 0.0, "how fast its products are")
    record = train(model, source, recipe.train, trained, folder=folder, workers=workers, note=note, start=start)
    if rank():
        return None
    saved = checkpoint.save(folder, model, recipe.mixture, {"recipe": recipe.name, **record})
    checkpoint.drop_state(folder)
    return saved


def _first_weights(recipe: Recipe) -> tuple[Model, str]:
    """The model that training begins with, and its fingerprint: empty where its weights are random."""
    if not recipe.start:
        return Model(recipe.cfg, seed=recipe.train.seed), ""
    found = checkpoint.load(recipe.start)
    different = [name for name, value in recipe.cfg.to_dict().items() if found.model.cfg.to_dict().get(name) != value]
    if different:
        raise ValueError(
            f"recipe {recipe.name!r} begins with {recipe.start}, which is of another architecture "
            f"({', '.join(different)} differ); make [model] the same, or begin with random weights"
        )
    return found.model, found.fingerprint


def _finished(recipe: Recipe, corpus: Corpus | None, start: str, folder: Path | str) -> checkpoint.Checkpoint | None:
    """The model that the recipe has already made in the folder of these programs and first weights, if any."""
    artifacts.check_free(folder, "model")
    if not (Path(folder) / artifacts.MANIFEST).exists():
        return None
    found = checkpoint.load(folder)
    if corpus is not None:
        programs = corpus.fingerprint
    elif recipe.stream:
        programs = recipe.mixture.fingerprint
    else:
        programs = fingerprint(recipe.mixture, recipe.train.seed, recipe.size)
    if recipe.ordinary:
        programs = ordinary.fingerprint(programs)
    read = found.record.get("corpus", {}).get("fingerprint")
    record = found.record
    made = {**record["config"], **found.model.cfg.to_dict(), "programs": read, "start": record.get("start", "")}
    asked = {**asdict(recipe.train), **recipe.cfg.to_dict(), "programs": programs, "start": start}
    if recipe.train.precision == AUTO:
        del asked["precision"]  # it does not matter in which the model was made
    elif record.get("stretches"):
        made["precision"] = record["stretches"][-1]["precision"]
    different = [name for name in asked if made.get(name) != json.loads(json.dumps(asked[name]))]
    if different:
        raise artifacts.ArtifactError(
            f"{folder} holds the finished model of another run ({', '.join(different)} differ); choose another folder, "
            "or delete it"
        )
    checkpoint.drop_state(folder)  # what a run leaves that is killed when its model is saved already
    return found


def _told(now: dict[str, float]) -> str:
    rate = now["tokens"] / now["seconds"]
    share = f", {now['share_of_peak']:.0%} of peak" if now["share_of_peak"] else ""
    return f"{now['tokens'] / 1e6:.1f} M tokens, {rate / 1e3:,.1f} k/s{share}, loss {now['loss']:.3f}"


def context(longest: int) -> int:
    """Positions for programs of `longest` tokens and for completions that go astray."""
    return 8 * -(-(longest + 5) // 8)


def _heads(width: int, d_head: int) -> dict[str, int]:
    if d_head < 1 or width < d_head or width % d_head:
        raise ValueError(f"width = {width} must be a multiple of {d_head}, one head each")
    return {"n_heads": width // d_head, "d_head": d_head}


# --- TOML ------------------------------------------------------------------------------------------------------------


def load(source: str | Path) -> Recipe:
    """The recipe in a TOML file, or one that ships with the package, by name (`shipped.names("recipes")`).

    A mixture is named as `mixture.load` takes it, a file beside the recipe too; so is the folder of `start`. Raises
    ValueError, in one line, for malformed TOML and for anything unknown, ill-typed or out of bounds.
    """
    path = Path(source)
    if path.suffix == ".toml" or path.is_file():
        return _parse(artifacts.read_text(path), str(path), path.parent)
    if str(source) not in shipped.names("recipes"):
        names = ", ".join(shipped.names("recipes"))
        raise ValueError(f"no recipe {str(source)!r}; name a TOML file or one of {names}")
    return _parse(artifacts.read_text(shipped.path("recipes", str(source))), str(source), Path())


def _parse(text: str, source: str, folder: Path) -> Recipe:
    try:
        return _from_dict(tomllib.loads(text), folder)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source} is not TOML: {error}") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _from_dict(data: dict[str, Any], folder: Path) -> Recipe:
    known = {"name": str, "mixture": str, "programs": int, "stream": bool, "start": str, "ordinary": bool}
    known |= {"model": dict, "train": dict}
    for name, value in data.items():
        if name not in known:
            raise ValueError(f"a recipe has no {name!r}; it has {', '.join(known)}")
        if type(value) is not known[name]:
            raise ValueError(f"{name} = {value!r} must be {known[name].__name__}")
    if not {"name", "mixture"} <= data.keys():
        raise ValueError('a recipe is name = "...", mixture = "...", and tables [model] and [train]')
    beside = folder / data["mixture"]
    chosen = mixture.load(beside if beside.is_file() else data["mixture"])
    model = _checked("model", data.get("model", {}), ModelConfig)
    width = model.get("d_model", 128)
    if "n_heads" in model:
        heads = {"d_head": width // max(1, model["n_heads"])}  # ModelConfig sees whether they divide the width
    else:
        heads = _heads(width, model.get("d_head", _HEAD))
    rest = {"d_mlp": 4 * width, "n_ctx": context(chosen.width)}
    cfg = ModelConfig(**{"n_layers": 4, "d_model": width, **rest, **heads, **model})
    training = TrainConfig(**_checked("train", data.get("train", {}), TrainConfig))
    rest = {name: data[name] for name in ("programs", "stream", "start", "ordinary") if name in data}
    if rest.get("start") and (folder / rest["start"]).is_dir():
        rest["start"] = str(folder / rest["start"])
    return Recipe(data["name"], chosen, cfg, training, **rest)


def _checked(owner: str, table: dict[str, Any], config: type) -> dict[str, Any]:
    """The table as keywords of a config: every name known, every value of its field's type."""
    kinds = {name: _plain(kind) for name, kind in get_type_hints(config).items()}
    values = {}
    for name, value in table.items():
        if name not in kinds:
            raise ValueError(f"{owner}: unknown field {name!r}; there are {', '.join(kinds)}")
        kind = kinds[name]
        if kind is float and type(value) is int:
            value = float(value)
        if kind is tuple and type(value) is list:
            value = tuple(float(one) if type(one) is int else one for one in value)
        if type(value) is not kind:
            raise ValueError(f"{owner}: {name} = {value!r} must be {kind.__name__}")
        values[name] = value
    return values


def _plain(kind: Any) -> type:
    """The type of a field's values: int of `int | None`, tuple of `tuple[float, float]`."""
    (kind, *_) = (one for one in (get_args(kind) if isinstance(kind, UnionType) else (kind,)) if one is not NoneType)
    return get_origin(kind) or kind


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
    """The recipe with some of it set anew: another size of model, number of steps, seed, mixture, precision or weights
    to begin with. The context grows where the mixture's programs ask for it."""
    mixed = mixture or recipe.mixture
    cfg = recipe.cfg
    if mixture:
        cfg = replace(cfg, n_ctx=max(cfg.n_ctx, context(mixed.width)))
    if width:
        cfg = replace(cfg, d_model=width, d_mlp=4 * width, **_heads(width, _HEAD))
    cfg = replace(cfg, n_layers=layers or cfg.n_layers)
    train = replace(recipe.train, steps=steps or recipe.train.steps)
    train = train if seed is None else replace(train, seed=seed)
    train = train if precision is None else replace(train, precision=precision)
    return replace(recipe, mixture=mixed, cfg=cfg, train=train, start=recipe.start if start is None else start)
