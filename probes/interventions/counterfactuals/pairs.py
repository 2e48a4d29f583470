"""Pairs of a base and a source program: the tables, the arrays that an engine patches with, and their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cadmus.machine import tokens
from cadmus.programs import mixture
from cadmus.programs.mixture import Component, Mixture
from cadmus.programs.parts.family import Family
from cadmus.runtime import artifacts
from cadmus.runtime.tables import did_you_mean
from cadmus.states.provenance import ROLES
from probes.interventions.counterfactuals.roles import JointEdit, joint_edits

KINDS = ("minimal", "discriminating")
STRATA = ("literal", "computed")
TEXTS = ("base", "source", "same_value", "third_value")
PAIR_COLUMNS = {  # and their types
    "pair": "int64",
    "variable": "str",
    "family": "str",
    "kind": "str",
    "stratum": "str",
    "base": "str",
    "source": "str",
    "same_value": "str",
    "third_value": "str",
    "cut": "int64",
    "value": "int64",
    "source_value": "int64",
    "third_source_value": "int64",
    "base_answer": "str",
    "edited_answer": "str",
    "source_answer": "str",
    "same_value_answer": "str",
    "third_answer": "str",
    "base_skeleton": "str",
    "source_skeleton": "str",
    "read_distance": "int64",
    "overwrites": "int64",
    "shift": "int64",
}
_ARTIFACT = "pairs"


@dataclass(frozen=True, repr=False)
class Pairs:
    """Pairs of one variable. Texts are prompts: programs up to their cut, without the marker.

    Each pair's edit gives the base's value the source's: `edited_answer` is what its family's rule asks for where the
    value is another from where it arose on. Rows are numbered 0 ... n - 1 by `pair`.
    """

    pairs: pd.DataFrame
    """One row a pair. `kind`: "minimal" (the source differs in what makes the value alone, so that its own answer is
    the edited one) or "discriminating" (its own answer is neither the base's nor the edited one). `stratum`: whether a
    digit made the base's value ("literal") or an instruction ("computed"). `same_value`: another program in which the
    value is the base's; `third_value`: one whose value, `third_source_value`, asks for `third_answer`, neither the
    base's answer nor the edited one; both empty where there is none. `source_answer`, `same_value_answer`: what these
    programs ask for themselves. `read_distance`: tokens from where the value was stored (else: arose) to its first load
    (else: its first use; else: the cut). `overwrites`: how many stores of that register came before. `shift`: how much
    longer the source is."""
    roles: pd.DataFrame
    """One row per pair, role and occurrence of the value. The model is patched at `base_token` from `source_token`; the
    same edit of the machine is `place` in the state after `edit_at`, and then `edited_answer` is asked for. Where all
    occurrences of the role that the source has too are patched it is `joint_answer`. `version`, `distance`: of a
    register, as in `cadmus.states.provenance.Occurrences`. Where a program lacks the role its token is -1, and `note`
    says why."""
    families: tuple[Family, ...]
    """The families of the pairs, which say whether a completion has their form."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What they were made of: `variable`, `seed`, `mixture` (its fingerprint), `versions`, ..."""

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.pairs["kind"].value_counts().items())
        return f"Pairs({len(self):,} of {self.about.get('variable', '?')}: {kinds})"

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that name what both tables hold, and the families with their knobs."""
        return artifacts.fingerprint([*(table.to_dict("list") for table in (self.pairs, self.roles)), self._knobs()])

    def family(self, name: str) -> Family:
        """The family of that name. Raises ValueError for one that no pair has."""
        for family in self.families:
            if family.name == name:
                return family
        raise ValueError(f"no pair is of the family {name!r}; there are {', '.join(f.name for f in self.families)}")

    def select(self, rows: np.ndarray) -> Pairs:
        """Some of the pairs, numbered anew: rows is bool [n], or int [m] without repetition."""
        rows = np.asarray(rows)
        chosen_rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        number = pd.Series(np.arange(len(chosen_rows)), index=self.pairs["pair"].to_numpy()[chosen_rows])
        pairs = self.pairs.iloc[chosen_rows].assign(pair=number.to_numpy()).reset_index(drop=True)
        roles = self.roles[self.roles["pair"].isin(number.index)]
        roles = roles.assign(pair=number[roles["pair"]].to_numpy()).sort_values("pair", kind="stable")
        return Pairs(pairs, roles.reset_index(drop=True), self.families, self.about)

    # --- arrays ------------------------------------------------------------------------------------------------------

    def sequences(self, which: str = "base") -> np.ndarray:
        """What a model reads, the marker first: uint8 [n, positions]; `which` is one of `TEXTS`.

        All four have as many positions as the longest of the texts, so that they can be patched into each other. A text
        that is missing is nothing but padding. Raises ValueError for another name.
        """
        if which not in TEXTS:
            raise ValueError(f"unknown text {which!r}{did_you_mean(which, TEXTS)}; there are {', '.join(TEXTS)}")
        width = max(int(self.pairs[text].str.len().max()) for text in TEXTS) if len(self) else 0
        return tokens.sequences(tokens.encode(self.pairs[which].tolist(), width))

    @property
    def cuts(self) -> np.ndarray:
        """The cuts of the bases, int64 [n]: the answer is predicted at the model's position of that number."""
        return self.pairs["cut"].to_numpy()

    def positions(self, role: str) -> np.ndarray:
        """The model's positions at which bases have the role: int64 [n, k], -1 behind a pair's last occurrence.

        An occurrence that the source lacks is left out, so that `source_positions` are those to patch from. Positions
        occur once, though the value may lie in two places there. Raises ValueError for an unknown role.
        """
        return self._positions(role)[0]

    def source_positions(self, role: str) -> np.ndarray:
        """The model's positions in sources that belong to `positions`: int64 [n, k]."""
        return self._positions(role)[1]

    def _positions(self, role: str) -> tuple[np.ndarray, np.ndarray]:
        check_role(role)
        rows = self.roles[(self.roles["role"] == role) & (self.roles["source_token"] >= 0)]
        rows = rows.drop_duplicates(["pair", "base_token"])
        column = rows.groupby("pair").cumcount().to_numpy()
        shape = len(self), int(column.max(initial=0)) + 1
        out = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
        for positions, name in zip(out, ("base_token", "source_token")):
            positions[rows["pair"].to_numpy(), column] = rows[name].to_numpy() + 1
        return out

    def present(self, role: str) -> np.ndarray:
        """Which pairs have the role, in base and source: bool [n]."""
        return self.positions(role)[:, 0] >= 0

    def edits(self, role: str | None = None, value: str = "source_value") -> list[JointEdit]:
        """The machine's edit of each pair: of the value as a whole (from where it arose on), or where the occurrences
        of one role are patched; nothing is edited where a pair lacks it.

        `value` names the column that is put there: "source_value", "third_source_value".
        """
        check_role(role or ROLES[0])
        columns = (self.pairs[name].tolist() for name in ("base", value, "pair"))
        return joint_edits(self.roles, role or "arose", *columns)

    # --- files -------------------------------------------------------------------------------------------------------

    def _knobs(self) -> dict[str, Any]:
        """The families as a mixture has them, fit for JSON."""
        return mixture.to_dict(Mixture("pairs", tuple(Component(family) for family in self.families)))

    def save(self, folder: str | Path) -> Path:
        """Write both tables as Parquet (`pairs.parquet`, `roles.parquet`), each with `about` and the families' knobs in
        its metadata, into a folder with a manifest. Raises ArtifactError where the folder holds something else."""
        metadata = {"about": json.dumps(dict(self.about)), "families": json.dumps(self._knobs())}
        with artifacts.new_folder(folder, _ARTIFACT, about=dict(self.about)) as place:
            for name, table in (("pairs", self.pairs), ("roles", self.roles)):
                arrow = pa.Table.from_pandas(table, preserve_index=False)
                arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **metadata})
                pq.write_table(arrow, place / f"{name}.parquet")
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Pairs:
        """Read what `save` wrote. Raises ArtifactError for what is missing, damaged or of another kind."""
        artifacts.read_manifest(folder, _ARTIFACT)
        read = [pq.read_table(Path(folder) / f"{name}.parquet") for name in ("pairs", "roles")]
        metadata = {key: json.loads(read[0].schema.metadata[key.encode()]) for key in ("about", "families")}
        pairs, roles = (table.to_pandas() for table in read)
        return cls(pairs, roles, mixture.from_dict(metadata["families"]).families, metadata["about"])


def check_role(role: str) -> None:
    """Raise ValueError for what is no role."""
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}{did_you_mean(role, ROLES)}; there are {', '.join(ROLES)}")
