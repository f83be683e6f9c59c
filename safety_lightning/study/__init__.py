"""The whole study of the paper as stages, in the order in which they run:

settings              what a study is told: the command's schema
plan, planning        the graph of stages that it becomes; what they will take
stages                a piece of work with inputs and outputs, found again by their content
running, executors    runs each when what it needs is done: here, in several processes, on Ray, under Slurm
finetuning            pilots and fine-tunes: `fit`
variants, measuring   the variants of each fine-tune, set into a model in memory and measured
comparing             energies, overlaps of weights and of activations: `project`, `overlap`, `predict`
statistics, report    selectivity with its uncertainty and a verdict; tables, figures, pages
views                 what the results are shown in besides: TensorBoard
command               `study` itself
"""

from safety_lightning.study.settings import StudyRun

__all__ = ["StudyRun"]
