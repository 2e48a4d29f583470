"""Every instrument of `probes.interventions` on planted truth: transformers, made by hand or trained to a
circuit, whose carriers are known."""
