"""How a variable is held: sums by value (`value_statistics`), how many dimensions and neurons it takes
(`dimensions`), in which base numbers are written (`number_bases`), and which residues are told apart (`residues`)."""
