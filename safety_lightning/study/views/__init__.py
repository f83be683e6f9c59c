"""What a study's results are shown in besides its report:

dashboard   TensorBoard: curves of every fine-tune and subspace against the fraction, and the figures
profiles    the overlaps once more under every departure of the paper
"""

BOARD = "tensorboard"
"""The folder of a study that TensorBoard is to be given."""
