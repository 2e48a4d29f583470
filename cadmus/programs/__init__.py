"""True-programs: the eleven `families`, the `parts` they are put together from, `skeletons` (a program's form, and
the splits by it), `mixture` (which families, how much of each) and `holdout` (what a mixture leaves out of
training)."""
