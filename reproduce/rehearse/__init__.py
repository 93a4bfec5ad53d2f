"""Rehearsals: a few steps of the real trainings on this machine, before days are spent.

A rehearsal starts every training by the code that `train` starts it by, at its full image size and
augmentation, in a process of its own.
"""
