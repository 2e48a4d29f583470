"""The studies, a folder each: `study` (a config -> tidy tables), `figures`, `summary` (the page's first sentences) and
`page`. A study does not import another, but for `model_report` and `alternatives`, which are put together from others.
Each runs as `python -m analyses.studies.NAME`."""
