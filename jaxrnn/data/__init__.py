"""Data sets as NumPy arrays, and their batches as pure functions of the step.

``streams`` cuts a sequence into batches and windows; ``text`` and ``sine`` read files.
"""
