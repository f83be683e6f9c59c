"""Reads, mixes, encodes and batches what is trained on; ``datamodule.InstructionData`` ties it together."""
