"""The command line, in the order in which a command goes through it.

commands   the table of commands; the one that was asked for is imported and run
stops      what a command does when a signal stops it
lists      lets lists and mappings be written as words: ``--names a b``
configs    the configs that come with the package, by name
judges     a judge of one class inherits nothing from another
errors     one parser's errors: the line that matters, and the nearest name
verbs      the Trainer's verbs under LightningCLI: fit, validate, test, predict
"""

from safety_lightning.cli.commands import COMMANDS, TRAINER_VERBS, Command, main

__all__ = ["COMMANDS", "TRAINER_VERBS", "Command", "main"]
