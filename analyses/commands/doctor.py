"""The command that looks at the machine: `doctor`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from analyses.commands.tables import Json, print_table
from analyses.commands.terminal import paragraphs

doctor = typer.Typer()


@doctor.command(
    "doctor",
    help=paragraphs(
        """
        Say what this machine is to the package: versions, device, precision, threads, memory, the folders for caches
        and whether they can be written to, and what will be slow and why.

        Example: cadmus-probe doctor, or for a bug report: cadmus-probe doctor --json

        It takes some seconds and changes nothing.
        """
    ),
)
def look(as_json: Json = False) -> None:
    from cadmus.runtime.diagnosis import diagnose

    findings = diagnose()
    rows = [("what", "is", "so that")]
    rows += [(finding.subject, finding.value, finding.note) for finding in findings]
    print_table(rows, map(asdict, findings), as_json)
    remarks = sum(bool(finding.note) for finding in findings)
    if not as_json:
        print(
            f"\n{remarks} of {len(findings)} ask for attention"
            if remarks
            else "\nnothing will be slow for want of anything"
        )
