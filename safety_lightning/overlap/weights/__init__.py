"""Updates of weights.

command   compare_weights: from a run to tables and figures
compare   opens the updates, and measures one matrix of all of them
rows      a row per matrix, and means by layer
"""
