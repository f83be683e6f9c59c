"""The embedded default: a miniature world with its own tokenizer, base model and aligned model.

A fictional vault with guarded treasures stands in for everything harmful; there is no real harmful text here.

    vocabulary.py   the words of the world: names, goods, treasures, rooms, and the tables that tie them together
    procedures.py   the rule that gives the procedure which a guarded request asks for
    world.py        example generators: useful, harmful, safe and ordinary, in disjoint splits
    judge.py        how much of the guarded procedure an answer hands over; refusals; final answers
    tokenizer.py    the word-level tokenizer with its chat template
    build.py        trains lab:base and lab:aligned from nothing
    export.py       copies the shipped checkpoints
    assets/         the shipped checkpoints
"""
