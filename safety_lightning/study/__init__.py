"""The paper's whole study: stages, statistics and a report with a verdict."""
