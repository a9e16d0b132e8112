"""Measure oread beside its peers: run `python -m benchmarks`.

`table` lists the peers, `suites` the cases; `process` runs servers, `load`
generators, `measure` the rounds; `results` and `report` make the figures.
"""
