"""Sets of activations.

command   compare_activations: from a run to tables and figures
sets      opens the sets, and checks that they are of one kind
compare   measures one layer of all sets
draws     labels shuffled for a null, prompts resampled for intervals
rows      a row per layer, and averages over a range of depth
"""
