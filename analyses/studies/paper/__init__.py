"""The measurements of the Cadmus paper: Table 3, Figure 1 and Figure 2."""
