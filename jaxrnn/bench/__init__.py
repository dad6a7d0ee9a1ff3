"""Speed beside other libraries, each timed in turn in one run: ``python -m jaxrnn.bench``.

From the bottom up: ``workloads`` (what is timed), ``timing`` and ``ceilings`` (how, and what the
machine can do), ``peers`` (a library each), ``results`` (rows), ``report`` (table and plot).
"""
