"""What families are put together from: the base class (`family`), expressions, statements, definitions, predicates,
and `pieces`, the strings with decisions that a program is made of."""
