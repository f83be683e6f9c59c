"""Measures what a model does: answers, utility, harmfulness, and how sure of each we are."""
