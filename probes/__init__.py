"""Probes that read machine state out of hidden activations, with the controls that make their scores mean something."""
