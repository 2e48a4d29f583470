"""Probes retrained on the states of other machines (Jin & Rinard): does the probe compute the state, or the model?"""
