"""What the machine and the launcher give, each thing behind one door.

devices              the device to work on, products in full float32, freed memory
disks                one clear line when a disk is full
processes            which process this is, how many there are, and who does what
randomness           a generator for every random draw
lightning_internals  what Lightning offers under private names alone
"""
