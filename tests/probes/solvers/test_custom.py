"""A user's probe: loaded from a file, run target by target, and its failures kept to their cells."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.data.targets import Target
from probes.solvers.custom import CustomSiteProbes, Probe, fresh, load

SOURCE = '''
import numpy as np

class Nearest:
    """The value whose mean activation is nearest."""
    def __init__(self, scale=1.0):
        self.scale = scale
    def fit(self, x, y):
        self.values = np.unique(y)
        self.means = np.stack([x[y == value].mean(0) for value in self.values])
    def predict(self, x):
        return self.values[((x[:, None] - self.means) ** 2).sum(2).argmin(1)]

made = Nearest(2.0)
needs = lambda: None
class Wants:
    def __init__(self, alpha): pass
class Half:
    def fit(self, x, y): pass
'''


def write(folder: Path, source: str = SOURCE) -> Path:
    path = folder / "mine.py"
    path.write_text(source)
    return path


def data(n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [n, 6], values and mask [n, 4]: two that are in x, a constant, and one that is hardly defined."""
    rng = np.random.default_rng(0)
    values = np.stack([rng.integers(-3, 4, n), rng.integers(0, 3, n), np.full(n, 7), rng.integers(0, 2, n)], 1)
    x = values[:, :2] @ rng.normal(size=(2, 6)) * 3 + 0.1 * rng.normal(size=(n, 6))
    mask = np.stack([np.ones(n), rng.random(n) < 0.5, np.ones(n), np.arange(n) < 49], 1).astype(bool)
    return x.astype(np.float32), values, mask


def test_a_class_and_an_object_of_a_file(tmp_path: Path) -> None:
    path, (x, values, _) = write(tmp_path), data()
    probe = load(f"{path}:Nearest")
    assert isinstance(probe, Probe)
    assert (probe.scale, load(f"{path}:made").scale) == (1.0, 2.0)
    probe.fit(x, values[:, 0])
    assert (probe.predict(x) == values[:, 0]).mean() > 0.95


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", r"--probe '.*mine\.py:' must be FILE\.py:NAME, such as my_probe\.py:MyProbe"),
        ("Other", r"mine\.py has no 'Other'; it has np, Nearest, made, needs, Wants, Half"),
        ("Half", r"mine\.py:Half has no fit and predict; a probe needs both \(probes\.Probe\)"),
        ("needs", r"mine\.py:needs has no fit and predict"),
        ("Wants", r"mine\.py:Wants raised TypeError: .*missing 1 required positional argument: 'alpha'"),
    ],
)
def test_what_cannot_be_loaded(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(f"{write(tmp_path)}:{name}")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_loaded(tmp_path: Path) -> None:
    for source in ("mine:Probe", "Probe", f"{tmp_path}/mine.txt:Probe"):
        with pytest.raises(ValueError, match=r"must be FILE\.py:NAME"):
            load(source)
    with pytest.raises(ValueError, match=r"mine\.py does not exist; name the Python file that holds Probe"):
        load(f"{tmp_path}/mine.py:Probe")
    with pytest.raises(ValueError, match=r"mine\.py:Probe raised ZeroDivisionError: division by zero"):
        load(f"{write(tmp_path, '1 / 0')}:Probe")
    with pytest.raises(ValueError, match=r"mine\.py:Probe raised SyntaxError"):
        load(f"{write(tmp_path, 'def')}:Probe")
    with pytest.raises(ValueError, match=r"mine\.py has no 'Probe'; it has no names"):
        load(f"{write(tmp_path, '')}:Probe")


@pytest.fixture
def path_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is searched for modules, as it was before the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def test_a_file_imports_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path_kept: None) -> None:
    """When it is loaded and later, from any folder; what is installed comes first."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "neighbour_of_a_probe.py").write_text("bias = 3")
    (tmp_path / "here" / "later_neighbour_of_a_probe.py").write_text("bias = 4")
    (tmp_path / "here" / "sklearn.py").write_text("1 / 0")
    write(
        tmp_path / "here",
        """
import sklearn.base
from neighbour_of_a_probe import bias
class Constant:
    def fit(self, x, y):
        from later_neighbour_of_a_probe import bias as later
        self.constant = bias + later
    def predict(self, x):
        return [self.constant] * len(x)
""",
    )
    monkeypatch.chdir(tmp_path)
    before, (x, values, mask) = list(sys.path), data()
    for _ in range(2):
        probe = load("here/mine.py:Constant")
    assert sys.path == [*before, str(tmp_path / "here")]
    monkeypatch.chdir("/")
    assert (CustomSiteProbes.fit(probe, x, values, mask).predict(x)[:, 0] == 7).all()


def test_a_file_that_exits_or_says_much_is_reported_in_one_line(tmp_path: Path, path_kept: None) -> None:
    for source, message in [
        ("import sys; sys.exit()", r"mine\.py:Probe raised SystemExit$"),
        ("exit('no data')", r"mine\.py:Probe raised SystemExit: no data$"),
        ("class Probe:\n    def __init__(self): raise SystemExit(3)", r"mine\.py:Probe raised SystemExit: 3$"),
        (r"raise KeyError and ValueError('a\nb\n\tc')", r"mine\.py:Probe raised ValueError: a b c$"),
        ("raise ValueError('much ' * 1000)", r"raised ValueError: (much )+\.\.\.$"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            load(f"{write(tmp_path, source)}:Probe")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < len(str(tmp_path)) + 400
    with pytest.raises(KeyboardInterrupt):
        load(f"{write(tmp_path, 'raise KeyboardInterrupt')}:Probe")


@pytest.mark.parametrize(
    "probe", ["file", Ridge(), KNeighborsClassifier(3), make_pipeline(StandardScaler(), LinearRegression())]
)
def test_a_fresh_copy_reads_each_target(probe: object, tmp_path: Path) -> None:
    probe, (x, values, mask) = load(f"{write(tmp_path)}:Nearest") if probe == "file" else probe, data()
    fitted = CustomSiteProbes.fit(probe, x, values, mask)
    assert fitted.problems == {
        2: "constant (7) on the training tokens",
        3: "49 training tokens; a probe needs 50",
    }
    predicted = fitted.predict(x)
    assert predicted.dtype == np.float32
    for k in (0, 1):
        alone = fresh(probe)
        alone.fit(x[mask[:, k]], values[mask[:, k], k])
        assert np.allclose(predicted[:, k], alone.predict(x))
        assert (np.rint(predicted[:, k]) == values[:, k]).mean() > 0.7
    assert np.isnan(predicted[:, 2:]).all()
    assert not vars(probe).keys() & {"means", "coef_", "classes_"}, "the probe itself was fitted"
    assert np.isnan(fitted.penalty(0))
    assert not fitted.thread_safe
    assert fitted.probe_name(Target("depth")) == type(probe).__name__


LATER = {"raises later": KeyError("tired"), "exits later": SystemExit(3), "is interrupted later": KeyboardInterrupt()}


class Awkward:
    """Fits and predicts, but for labels with three values does what `how` says."""

    def __init__(self, how: str):
        self.how = how

    def fit(self, x: np.ndarray, y: np.ndarray) -> None:
        self.awkward, self.calls = len(np.unique(y)) == 3, 0
        if self.awkward and self.how == "raises in fit":
            raise RuntimeError("does not converge")
        if self.awkward and self.how == "exits in fit":
            sys.exit()
        if self.awkward and self.how == "says much":
            raise ValueError("x:\n  is\n\n  wrong\n")
        if self.awkward and self.how == "is interrupted in fit":
            raise KeyboardInterrupt

    def predict(self, x: np.ndarray) -> np.ndarray:
        self.calls += 1
        zeros = np.zeros(len(x))
        if not self.awkward:
            return zeros
        if self.how == "raises in predict":
            raise KeyError("lost")
        if self.how == "exits in predict":
            sys.exit("no more")
        if self.how in LATER and self.calls > 2:
            raise LATER[self.how]
        return {"columns": zeros[:, None], "scalar": zeros.sum(), "text": zeros.astype(str)}.get(self.how, zeros)


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("raises in fit", "RuntimeError: does not converge"),
        ("raises in predict", "KeyError: 'lost'"),
        ("exits in fit", "SystemExit"),
        ("exits in predict", "SystemExit: no more"),
        ("says much", "ValueError: x: is wrong"),
        ("columns", "ValueError: predict gave float64 (7, 1) for 7 rows; expected numbers (7,)"),
        ("scalar", "ValueError: predict gave float64 () for 7 rows; expected numbers (7,)"),
        ("text", "ValueError: predict gave <U32 (7,) for 7 rows; expected numbers (7,)"),
    ],
)
def test_a_probe_that_fails_is_marked_and_the_rest_kept(how: str, problem: str) -> None:
    x, values, mask = data()
    fitted = CustomSiteProbes.fit(Awkward(how), x, values, mask)
    assert fitted.problems[1] == problem
    assert fitted.fitted[1] is None
    predicted = fitted.predict(x)
    assert np.isnan(predicted[:, 1]).all()
    assert (predicted[:, 0] == 0).all()


@pytest.mark.parametrize(("how", "problem"), [("raises later", "KeyError: 'tired'"), ("exits later", "SystemExit: 3")])
def test_a_probe_that_fails_later_is_marked_then(how: str, problem: str) -> None:
    x, values, mask = data()
    fitted = CustomSiteProbes.fit(Awkward(how), x, values, mask)
    assert (fitted.predict(x)[:, 1] == 0).all()
    assert 1 not in fitted.problems
    for _ in range(2):
        assert np.isnan(fitted.predict(x)[:, 1]).all()
    assert fitted.problems[1] == problem
    assert fitted.fitted[1].calls == 3, "asked again"


def test_an_interruption_passes_through() -> None:
    x, values, mask = data()
    with pytest.raises(KeyboardInterrupt):
        CustomSiteProbes.fit(Awkward("is interrupted in fit"), x, values, mask)
    fitted = CustomSiteProbes.fit(Awkward("is interrupted later"), x, values, mask)
    fitted.predict(x)
    with pytest.raises(KeyboardInterrupt):
        fitted.predict(x)


def test_rows_that_are_not_finite_are_kept_from_the_probe() -> None:
    x, values, mask = data()
    x[:30, 0] = np.nan
    fitted = CustomSiteProbes.fit(LinearRegression(), x, values, mask)
    note = "30 training tokens left out: activations not finite"
    assert fitted.notes == {0: note, 1: note}
    assert fitted.problems[3] == f"19 training tokens; a probe needs 50 ({note})"
    predicted = fitted.predict(x)
    assert np.isnan(predicted[:30]).all()
    assert np.isfinite(predicted[30:, 0]).all()
    few = CustomSiteProbes.fit(LinearRegression(), np.tile(x[30:90], 20), values[30:90], mask[30:90])
    assert few.notes[0] == "60 training tokens for 120 dimensions"
