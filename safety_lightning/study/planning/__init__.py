"""What a study will take, said before it begins:

machine     how fast this machine, or a named one, multiplies and copies
texts       how many prompts and tokens a source has, as far as that is known without the hub
judging     which judges cost money, how often each is asked, and their list price
measures    what it takes to measure a model on all tasks
estimates   every kind of stage: seconds, memory, disk, judges
checks      what is refused, or said, before the first hour of training
table       the plan, as it is printed
"""

from safety_lightning.study.planning.checks import check_plan, list_doubts
from safety_lightning.study.planning.estimates import Estimator, sum_disk
from safety_lightning.study.planning.table import print_plan

__all__ = ["Estimator", "check_plan", "list_doubts", "print_plan", "sum_disk"]
