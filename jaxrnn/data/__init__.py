"""Data sets as NumPy arrays, and their batches as pure functions of the step.

``streams`` cuts a sequence into batches and windows; ``text`` and ``series`` read files, CSV
by way of ``table`` and ``dates``.
"""
