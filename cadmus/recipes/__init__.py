"""Recipes that ship with the package, as TOML; `cadmus.recipe.load` reads them by name."""
