"""Fine-tunes a model on your own captioned pictures: `xattn train`, or `python -m training own`.

    settings    every number of a run in one frozen dataclass
    data        any dataset → pictures to train on and pictures held out
    head        what is trained, and its loss: all pairs of a batch, tiled
    validation  recall on the held-out pictures, and the sign of collapse
    state       checkpoints that survive being killed at any moment
    loop        the training itself
    curves      the log as a picture
    run         all of it in order; what `command` calls

The towers stay frozen: each picture passes them once per view, and the regions are kept on disk.
"""
