"""What a model completes of a set whose form its training lacked: right as a whole, and true in whatever form."""

import cadmus
from analyses.sweeps.accuracies import accuracies
from cadmus.corpora.build import build
from tests.analyses.sweeps.tiny import tiny


def test_what_is_true_counts_in_whatever_form():
    learned = {"name": "register", "max_stores": 3, "dependent_share": 0.15, "pair_share": 0.1, "assertions": 2}
    one = {"name": "one", "family": "register", "pair_share": 0.0, "assertions": 1}
    sweep = tiny(
        mixture={"name": "m", "family": [learned], "out_of_distribution": [one]},
        responses=["accuracy.in_distribution", "true.in_distribution", "accuracy.one", "true.one"],
        hypothesis=None,
    )
    mixture = sweep.recipe.mixture
    rows = accuracies(sweep, mixture, build(mixture, 200, 0), cadmus.load_model("cadmus-micro"), 0)
    right, true, right_of_one, true_of_one = rows
    assert right.n == true.n == 40
    assert 0.9 < right.value <= true.value
    assert right_of_one.n == true_of_one.n > 10
    assert right_of_one.value < 0.2, "it asserts twice, as it was taught"
    assert true_of_one.value > 0.9
    assert true_of_one.low < true_of_one.value <= true_of_one.high
