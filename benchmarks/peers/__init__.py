"""Hold one small program for each peer, all started with a port.

Which of them there are, and what they need, says `benchmarks.table`.
"""
