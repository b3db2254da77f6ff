"""Trains the model that xattn ships: `python -m training --data DIR --data DIR --out DIR`.

    recipe      every number of a run in one frozen dataclass
    photos      data sets → photos with captions, phrases and boxes
    attributes  texts made wrong by one attribute
    frozen      what the frozen part of the towers says of every photo, kept on disk
    batches     random batches of photos of one shape, and the texts they are asked about
    student     the model in training: last blocks and heads on frozen features
    objective   the losses
    fit         the loop, resumable
    run         all of it in order; card: the model card

Each photo passes the frozen part once; training then needs no picture.
"""
