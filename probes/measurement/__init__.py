"""A whole measurement, on constant memory: what is asked of every site (`measure`), passes over the programs
(`passes`), correct counts by cluster (`tally`), and the table of scores with intervals (`scores`)."""
