"""The tables of README.md and docs/findings.md that say what was found: made of the committed tables of `reports/`.

`python -m tests.findings` writes them anew, and the figure beside them, after reports were made anew. Each stands
between `<!-- table: NAME -->` and `<!-- end of table -->`; tests/test_docs.py compares.
"""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.studies.generalization.figures import display_name
from analyses.studies.generalization.levels import medians
from analyses.studies.interventions import words
from analyses.studies.state.tables import best_of_roles, headline, main_probe

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/findings.md")
PAPER = {  # arXiv 2602.09112, Table 3: 280 M parameters, 2,000 held-out programs a family
    "arith": "1.0",
    "equality": "1.0",
    "compare": "1.0",
    "subroutine": "1.0",
    "sequence": "1.0",
    "sequence_advanced": "1.0",
    "label": "1.0",
    "induce": "0.96",
    "random": "0.92",
}
CONTROLS = {
    "input, nonlinear": "a network on the last eight tokens",
    "input, linear": "a linear probe of the last eight tokens",
    "n-gram": "the last three tokens",
    "untrained": "the untrained model",
    "embedding": "the embedding",
    "by token": "the token",
    "majority": "the most frequent value",
}
READABLE = (  # variable, role (empty: all tokens), in words
    ("reg.a.value", "loaded", "register a, its value, where it is loaded"),
    ("reg.a.parity", "loaded", "register a, its parity, where it is loaded"),
    ("reg.b.value", "loaded", "register b, its value, where it is loaded"),
    ("stack.0.value", "loaded", "the top of the stack, where it is loaded"),
    ("stack.0.value", "", "the top of the stack, over all tokens"),
    ("needed.relation", "", "the relation that would make the program true, over all tokens"),
    ("reg.a.value", "", "register a, its value, over all tokens"),
)
ARMS = {  # of Figure 1's sweeps, and what they change
    "base": "where nothing else changes",
    "strict": "where half of the compared pairs are equal and another family has larger numbers that nothing compares",
    "lenient": "where that family tells them by `=`",
}
MINI, MICRO = ("cadmus-mini", "cadmus-mini-1"), ("cadmus-micro", "cadmus-micro-1", "cadmus-micro-2")
TWIN, NOT_TESTED = "cadmus-micro-ordinary", "not tested"
_MARKED = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- end of table -->", re.DOTALL)


def read(name: str, folder: str = "") -> pd.DataFrame:
    """A committed table of the report, or of the one in a folder beneath it."""
    return pd.read_parquet(ROOT / "reports" / folder / "tables" / f"{name}.parquet")


def completion() -> str:
    """What the model that ships completes, by family, beside the paper's."""
    table = read("completion").set_index(["split", "family"])["accuracy"]
    rows = [["family", "unseen programs", "unseen skeletons", "the paper's 280 M parameters"], ["---"] * 4]
    for family in [family for split, family in table.index if split == "test"]:
        accuracies = [f"{table[split, family]:.2f}" for split in ("test", "test_skeleton")]
        rows.append([f"`{family}`", *accuracies, PAPER.get(family, "")])
    return _lines(rows)


def unlike() -> str:
    """What it completes of programs unlike those that it was trained on."""
    table = read("completion")
    table = table[~table["split"].isin(["test", "test_skeleton"])]
    rows = [["programs", "family", "completed"], ["---"] * 3]
    rows += [[row.split.replace("_", " "), f"`{row.family}`", _interval(row)] for row in table.itertuples()]
    return _lines(rows)


def readable() -> str:
    """What is read of the machine's state, at the site that the validation programs choose."""
    scores = read("state")
    roles = best_of_roles(scores).set_index(["variable", "group"])
    present = headline(scores)
    everywhere = present.loc[present.groupby("variable")["validation"].idxmax()].set_index("variable")
    rows = [["of the machine's state", "after layer", "read", "best control", "claimed"], ["---"] * 5]
    for variable, role, words_of_row in READABLE:
        row = roles.loc[(variable, role)] if role else everywhere.loc[variable]
        control = f"{row[row['best_of_all']]:.2f}, {CONTROLS[row['best_of_all']]}"
        rows.append([words_of_row, str(row["layer"]), _interval(row, "score"), control, row["claimed"] or "nothing"])
    return _lines(rows)


def used() -> str:
    """What the model reads and uses, by which heads and in how many models, where that report is committed."""
    if not (ROOT / "reports" / "interventions" / "tables" / "findings.parquet").exists():
        return "(`cadmus-probe intervene` makes this table; it is not committed yet.)\n"
    head = ["of the machine's state", "read (best control)", "finding", "patched at", "answers moved (best control)"]
    rows = [[*head, "by which heads", "used in"], ["---"] * 7]
    true = read("models", "interventions").set_index("variable")[[*MINI, *MICRO]]  # without the ordinary twin
    for row in read("findings", "interventions").itertuples():
        place = words.place(row.layer, row.role, row.span) if pd.notna(row.layer) else ""
        control = max(row.untrained, row.input_linear, row.input_network)
        moved = f"{_interval(row)} ({row.control_score:.2f})" if pd.notna(row.control_score) else _interval(row)
        heads = row.heads.replace("load store", "from load to store") or "none claimed"
        findings = [finding for finding in true.loc[row.variable] if finding != NOT_TESTED]
        counts = f"{_n_used(findings)} of {len(findings)}"
        name = words.variable(row.variable)
        rows.append([name, f"{row.score:.2f} ({control:.2f})", row.finding, place, moved, heads, counts])
    return _lines(rows)


def seeds() -> str:
    """In how many seeds of both models that ship each variable is used, beside the ordinary twin."""
    head = ["of the machine's state", "`cadmus-mini`, seeds 0, 1", "`cadmus-micro`, seeds 0, 1, 2", "its ordinary twin"]
    rows = [head, ["---"] * 4]
    for row in read("models", "interventions").to_dict("records"):
        mini, micro = (_over_seeds([row[name] for name in names]) for names in (MINI, MICRO))
        rows.append([words.variable(row["variable"]), mini, micro, row[TWIN].replace(NOT_TESTED, "")])
    return _lines(rows)


def _over_seeds(findings: list[str]) -> str:
    """`used in 2 of 3: undecided, read and used, read and used`; empty where the programs have no such variable."""
    if NOT_TESTED in findings:
        return ""
    each = {_in_short(finding) for finding in findings}
    said = f"each {each.pop()}" if len(each) == 1 else ", ".join(map(_in_short, findings))
    return f"used in {_n_used(findings)} of {len(findings)}: {said}"


def _n_used(findings: list[str]) -> int:
    """In how many of these findings a value is called used."""
    return sum(re.search(r"\bused\b", finding) is not None for finding in findings)


def distributions() -> str:
    """What the training distribution did in each study that is committed: a sentence with its figures."""
    committed = [study for study in STUDIES if (ROOT / "reports" / study).is_dir()]
    return "".join(f"- {STUDIES[study](study)}\n" for study in committed)


def _compounds(study: str) -> str:
    inside = medians(read("models", study), "accuracy.in_distribution", "compound_divergence")
    return (
        "**Compounds.** Programs put together of compounds that training lacked, their instructions and values alike, "
        "are completed the less often the greater the compound divergence: "
        f"{_by_level(study, 'accuracy.max_divergence', 'compound_divergence')} (at 0 nothing is held out), while "
        f"completion in distribution stays between {inside.min():.2f} and {inside.max():.2f}, medians of five models "
        f"(ρ = {_rho(study, 'accuracy.max_divergence', 'compound_divergence')}; {_answer(study, 'divergence')}). "
        f"{_page(study)}"
    )


def _skeletons(study: str) -> str:
    return (
        "**Skeletons.** The more skeletons 200,000 training programs have, the more programs of other skeletons are "
        f"completed: {_by_level(study, 'accuracy.unseen_skeletons', 'skeletons')} skeletons (as the generator "
        "counts them, before signs and assertions are added), medians of ten "
        f"models ({_answer(study, 'diversity')}); and the more programs with numbers that no training program had: "
        f"{_by_level(study, 'accuracy.unseen_values', 'skeletons')} ({_answer(study, 'values')}). {_page(study)}"
    )


def _distances(study: str) -> str:
    models = read("models", study).set_index("response")
    at_load, at_store = (models.value[f"interchange.reg.{role}"] for role in ("loaded", "stored"))
    followed, others = at_load[at_load > 0.5], at_load[at_load <= 0.5]
    is_followed = (at_load > 0.5).groupby(models.read_distance["interchange.reg.loaded"].to_numpy())
    of_levels = ", ".join(f"{part.sum()} of {len(part)} at {level}" for level, part in is_followed)
    return (
        "**Read distance.** An exchange of a register at the load is followed in "
        f"{followed.min():.2f} to {followed.max():.2f} of the pairs in {len(followed)} of {len(at_load)} models, by "
        f"the greatest number of stores that training reads back {of_levels} (in the others in {others.min():.2f} to "
        f"{others.max():.2f}); one at the store in at most {at_store.max():.2f}, in any of them. By the greatest "
        "number of stores between that of a value and the first assertion about it in training, values six or more "
        "stores back are read truly in "
        f"{_by_level(study, 'true.longer_read_distance', 'read_distance')} "
        f"({_answer(study, 'far reads')}). {_page(study)}"
    )


def _square(study: str) -> str:
    further, small = (_told(name) for name in ("figure-1-mini", study))
    of_arms = {arm: tuple(_both(further.loc[arm, region]) for region in ("diagonal", "corners")) for arm in ARMS}
    each = ", ".join(f"{told} ({biased}) {ARMS[arm]}" for arm, (told, biased) in of_arms.items())
    medians_of = small.map(lambda values: f"{pd.Series(values).median():.2f}")
    of_small = ", ".join(f"{row.diagonal} ({row.corners})" for row in medians_of.loc[list(ARMS)].itertuples())
    inside = _both(list(medians(read("models", "figure-1-mini"), "figure1.inside", "arm")))
    beginnings = [further, _told_from("first-run"), _told_from("second-run")]
    strict = [round(share, 2) for told in beginnings for share in told.loc["strict", "diagonal"]]
    scratch = _told_from("scratch").loc[["strict", "lenient"]]
    of_scratch = " and ".join(f"{_both(row.diagonal)} ({_both(row.corners)})" for row in scratch.itertuples())
    return (
        "**Figure 1.** `cadmus-mini`, trained further where `compare` keeps to -20..20, says `=` of equal numbers "
        f"beyond this square (in brackets, of unequal ones above or below it; two seeds) in {each}; inside it tells "
        f"{inside}. Of six models of the second kind, begun from three stages of its training, "
        f"{sum(share >= 0.9 for share in strict)} tell 0.90 or more, the others "
        f"{_both([share for share in strict if share < 0.9])}. Models of its shape trained from scratch on the last "
        f"two, one each, tell {of_scratch}. Models of 0.2 M parameters trained so from scratch gain little but a bias: "
        f"{of_small} in the first order, medians of five. {_page('figure-1-mini')} "
        f"[Of the small ones](reports/{study}/report.md)."
    )


def _told(study: str) -> pd.DataFrame:
    """How often models say `=` on the diagonal beyond the square and in the corners: an arm's models in a list."""
    return _told_of(read("figure1", study))


def _told_from(beginning: str) -> pd.DataFrame:
    """The same of the models of `cadmus-mini`'s shape that began otherwise."""
    return _told_of(pd.read_csv(ROOT / "reports" / "figure-1-mini" / f"from-{beginning}.csv"))


def _told_of(shares: pd.DataFrame) -> pd.DataFrame:
    """The same of the table `figure1` of a page."""
    shares = shares[shares["cell"].str.startswith("arm = ")]
    shares = shares.assign(cell=shares["cell"].str.removeprefix("arm = "))
    return shares.groupby(["cell", "region"])["equal"].agg(list).unstack()


def _both(values: list[float]) -> str:
    """`0.66 and 0.72`, the lesser first; once where they are written alike."""
    return " and ".join(dict.fromkeys(f"{value:.2f}" for value in sorted(values)))


def _by_level(study: str, response: str, factor: str) -> str:
    """`0.96 at 0, 0.94 at 0.15`: the median over the models of each level."""
    values = medians(read("models", study), response, factor)
    return ", ".join(f"{value:.2f} at {level:,g}" for level, value in values.items())


def _answer(study: str, hypothesis: str) -> str:
    """The effect that a hypothesis rests on, what was expected, and the verdict."""
    row = read("hypotheses", study).set_index("name").loc[hypothesis]
    expected = "no effect" if row.expected == "none" else f"a {row.expected} effect"
    predictor = display_name(row.predictor)
    return f"{_interval(row, 'effect')} per standard deviation of {predictor}; {expected} was expected: {row.verdict}"


def _rho(study: str, response: str, factor: str) -> str:
    """Spearman's rank correlation with the levels of a factor."""
    table = read("levels", study)
    (row,) = table[(table["response"] == response) & (table["factor"] == factor)].itertuples()
    return _interval(row, "rho")


def _page(study: str) -> str:
    return f"[All of it](reports/{study}/report.md)."


def _in_short(finding: str) -> str:
    """A finding as an item of a list: its own commas and semicolons apart."""
    return finding.replace("; ", " and ").replace(", use undecided", " and undecided")


def _interval(row: Any, name: str = "accuracy") -> str:
    """`0.98 [0.97, 0.99]`; empty where there is no figure."""
    low, high = ("low", "high") if hasattr(row, "low") else (f"{name}_low", f"{name}_high")
    if pd.isna(getattr(row, name)):
        return ""
    return f"{getattr(row, name):.2f} [{getattr(row, low):.2f}, {getattr(row, high):.2f}]"


def _lines(rows: list[list[str]]) -> str:
    """Rows of cells as a Markdown table; the second is the rule."""
    return "".join(f"| {' | '.join(row)} |\n" for row in rows).replace("| --- ", "|---").replace("|--- |", "|---|")


STUDIES = {"compound-divergence": _compounds, "diversity": _skeletons, "read-distance": _distances, "figure-1": _square}
TABLES = {table.__name__: table for table in (completion, unlike, readable, used, seeds, distributions)}


def with_tables(text: str) -> str:
    """A page with its tables as the committed reports have them. Raises KeyError for a table that nothing makes."""
    return _MARKED.sub(lambda m: f"<!-- table: {m[1]} -->\n{TABLES[m[1]]()}<!-- end of table -->", text)


def draw_finding(path: Path) -> None:
    """Register a by layer, where it is loaded and over all tokens, beside what is reached without the model."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    scores = main_probe(read("state"))
    scores = scores[(scores["offset"] == 0) & scores["group"].isin(["loaded", "all"])]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.1), sharey=True, layout="constrained")
    variables = {"reg.a.value": "its value, exactly", "reg.a.parity": "its parity"}
    for ax, (variable, title) in zip(axes, variables.items(), strict=True):
        for group, color, label in (("loaded", "#0072b2", "where it is loaded"), ("all", "#d55e00", "over all tokens")):
            rows = scores[(scores["variable"] == variable) & (scores["group"] == group)].sort_values("layer")
            bars = [rows["score"] - rows["low"], rows["high"] - rows["score"]]
            ax.errorbar(rows["layer"], rows["score"], yerr=bars, marker="o", capsize=2, color=color, label=label)
            without = rows[["majority", "by token", "n-gram", "input, linear", "input, nonlinear"]].max(axis=1)
            ax.plot(rows["layer"], without, color=color, linestyle="--", linewidth=1, alpha=0.8)
        ax.set(title=title, xlabel="after layer", ylim=(0, 1.03), xticks=range(0, int(scores["layer"].max()) + 1))
    axes[0].set_ylabel("read of register a (accuracy)")
    ax.plot([], [], color="0.4", linestyle="--", linewidth=1, label="best without the model")
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    sns.despine()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Write the tables of all pages anew, and the figure."""
    draw_finding(ROOT / "docs" / "_static" / "finding.png")
    for page in PAGES:
        path = ROOT / page
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
