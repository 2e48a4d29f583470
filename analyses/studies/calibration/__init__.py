"""Every instrument of `probes.interventions` on planted truth: transformers made by hand, whose carriers are known."""
