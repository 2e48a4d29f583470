"""A recipe: the mixture, the model and the training that a trained model is a function of, as one TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from cadmus import artifacts, checkpoint, mixture
from cadmus.build import build
from cadmus.mixture import Mixture
from cadmus.model import Model, ModelConfig
from cadmus.processes import rank
from cadmus.train import Source, TrainConfig, check_fits, train

Stage = Callable[[str, float, str], None]  # told of the stage, the share of it done, and a note

MOST_PROGRAMS = 2_000_000  # of a corpus whose size nobody states
_HEAD = 32  # width of a head, where a recipe does not say


@dataclass(frozen=True)
class Recipe:
    """What a model is trained on, its architecture, and how it is trained.

    programs: the size of the corpus; 0: what the run reads, so that none comes twice, at most two million. stream: draw
    programs as they are needed, none twice, in place of a corpus.
    """

    name: str
    mixture: Mixture
    cfg: ModelConfig
    train: TrainConfig
    programs: int = 0
    stream: bool = False

    def __post_init__(self) -> None:
        if self.programs < 0:
            raise ValueError(f"recipe {self.name!r}: programs = {self.programs} must be 0 or more")
        if self.stream and self.programs:
            raise ValueError(f"recipe {self.name!r}: a stream has no size; leave out programs, or stream")

        check_fits(self.mixture, self.cfg)

    @property
    def size(self) -> int:
        """Programs of the corpus."""
        return self.programs or min(self.train.steps * self.train.batch_size, MOST_PROGRAMS)


def follow(
    recipe: Recipe,
    folder: Path | str,
    *,
    device: str = "cpu",
    workers: int = 0,
    stage: Stage = lambda name, share, note: None,
) -> checkpoint.Checkpoint | None:
    """Train a model by the recipe and save it to `folder`; a killed run goes on where it stopped.

    `workers` processes draw the programs; 0: this one. Of several processes that train together, the first returns the
    model, the others None.
    """

    def built(done: int, family: str) -> None:
        stage("build the corpus", done / recipe.size, f"{done:,} programs")

    def trained(now: dict[str, float]) -> None:
        stage("train", now["step"] / recipe.train.steps, _told(now))

    source: Source = recipe.mixture
    if not recipe.stream:
        source = build(recipe.mixture, recipe.size, recipe.train.seed, workers=workers, progress=built)
    model = Model(recipe.cfg, seed=recipe.train.seed).to(device)
    record = train(model, source, recipe.train, trained, folder=folder, workers=workers)
    if rank():
        return None
    saved = checkpoint.save(folder, model, recipe.mixture, {"recipe": recipe.name, **record})
    checkpoint.drop_state(folder)
    return saved


def _told(now: dict[str, float]) -> str:
    rate = now["tokens"] / now["seconds"]
    share = f", {now['share_of_peak']:.0%} of peak" if now["share_of_peak"] else ""
    return f"{now['tokens'] / 1e6:.1f} M tokens, {rate / 1e3:,.1f} k/s{share}, loss {now['loss']:.3f}"


def architecture(layers: int, width: int, longest: int) -> dict[str, int]:
    """The fields of a ModelConfig of that size, with room for programs of `longest` tokens and for completions that go
    astray. ValueError where heads of width 32 do not divide the width."""
    if width % _HEAD:
        raise ValueError(f"width = {width} must be a multiple of {_HEAD}, one head each")
    heads = {"n_heads": width // _HEAD, "d_head": _HEAD}
    return {"n_layers": layers, "d_model": width, **heads, "d_mlp": 4 * width, "n_ctx": 8 * -(-(longest + 5) // 8)}


# --- TOML ------------------------------------------------------------------------------------------------------------


def load(source: str | Path) -> Recipe:
    """The recipe in a TOML file, or one that ships with the package, by name (`shipped()` lists them).

    A mixture is named as `mixture.load` takes it, a file beside the recipe too. Raises ValueError, in one line, for
    malformed TOML and for anything unknown, ill-typed or out of bounds.
    """
    path = Path(source)
    if path.suffix == ".toml" or path.is_file():
        return _parse(artifacts.read_text(path), str(path), path.parent)
    if str(source) not in shipped():
        raise ValueError(f"no recipe {str(source)!r}; name a TOML file or one of {', '.join(shipped())}")
    text = (resources.files("cadmus.recipes") / f"{source}.toml").read_text(encoding="utf-8")
    return _parse(text, str(source), Path())


def shipped() -> list[str]:
    """The names of the recipes that ship with the package."""
    files = resources.files("cadmus.recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def _parse(text: str, source: str, folder: Path) -> Recipe:
    try:
        return _from_dict(tomllib.loads(text), folder)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source} is not TOML: {error}") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _from_dict(data: dict[str, Any], folder: Path) -> Recipe:
    known = {"name": str, "mixture": str, "programs": int, "stream": bool, "model": dict, "train": dict}
    for name, value in data.items():
        if name not in known:
            raise ValueError(f"a recipe has no {name!r}; it has {', '.join(known)}")
        if type(value) is not known[name]:
            raise ValueError(f"{name} = {value!r} must be {known[name].__name__}")
    if not {"name", "mixture"} <= data.keys():
        raise ValueError('a recipe is name = "...", mixture = "...", and tables [model] and [train]')
    beside = folder / data["mixture"]
    chosen = mixture.load(beside if beside.is_file() else data["mixture"])
    model = dict(data.get("model", {}))
    size = architecture(model.get("n_layers", 4), model.get("d_model", 128), chosen.width)
    cfg = ModelConfig(**_checked("model", {**size, **model}, ModelConfig))
    training = TrainConfig(**_checked("train", data.get("train", {}), TrainConfig))
    return Recipe(data["name"], chosen, cfg, training, data.get("programs", 0), data.get("stream", False))


def _checked(owner: str, table: dict[str, Any], config: type) -> dict[str, Any]:
    """The table as keywords of a config: every name known, every value of its default's type."""
    defaults = {one.name: one.default for one in fields(config)}
    values = {}
    for name, value in table.items():
        if name not in defaults:
            raise ValueError(f"{owner}: unknown field {name!r}; there are {', '.join(defaults)}")
        kind = type(defaults[name])
        if kind is float and type(value) is int:
            value = float(value)
        if kind is tuple and type(value) is list:
            value = tuple(value)
        if type(value) is not kind:
            raise ValueError(f"{owner}: {name} = {value!r} must be {kind.__name__}")
        values[name] = value
    return values


def changed(
    recipe: Recipe,
    *,
    layers: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    mixture: Mixture | None = None,
) -> Recipe:
    """The recipe with some of it set anew: another size of model, another number of steps, seed or mixture."""
    mixed = mixture or recipe.mixture
    cfg = recipe.cfg
    if layers or width or mixture:
        size = architecture(layers or cfg.n_layers, width or cfg.d_model, mixed.width)
        cfg = replace(cfg, **size) if width else replace(cfg, n_layers=size["n_layers"], n_ctx=size["n_ctx"])
    train = replace(recipe.train, steps=steps or recipe.train.steps)
    train = train if seed is None else replace(train, seed=seed)
    return replace(recipe, mixture=mixed, cfg=cfg, train=train)
