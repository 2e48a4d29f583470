"""The first sentences of the page about a training distribution, in statements that its tables support."""

from __future__ import annotations

import pandas as pd

from analyses.studies.distribution.study import ALL, DistributionResults


def summary(results: DistributionResults) -> tuple[str, ...]:
    """What the source holds, how long its programs are, and how many bits their tokens carry."""
    source = results.source
    rows = results.properties[results.properties.family == ALL].set_index("property")
    if source.corpus is not None:
        subject = f"The corpus holds {len(source.corpus):,} programs"
    elif source.mixture.programs:
        subject = f"The mixture (for a corpus of {source.mixture.programs:,} programs) draws programs"
    else:
        subject = "The mixture draws programs"
    return (
        f"{subject} of {len(source.samples)} families, and each program is true: it leaves only true values.",
        f"Over all families, programs have {_value(rows.loc['length'], 1)} tokens, and a token carries "
        f"{_value(rows.loc['token_entropy'], 2)} bits, {_value(rows.loc['trigram_entropy'], 2)} given the two before.",
        f"The measurements rest on up to {max(map(len, source.samples.values())):,} programs of each family.",
    )


def _value(row: pd.Series, digits: int) -> str:
    """A property with its 95 % interval."""
    return f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"
