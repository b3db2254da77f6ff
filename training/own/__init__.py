"""Fine-tunes a model on your own captioned pictures: `xattn train`, or `python -m training own`.

    settings    every number of a run in one frozen dataclass
    data        any dataset → pictures to train on and pictures held out
    modes       what is trained, and how the towers are opened; lora: by adapters
    plan        which pictures make a batch; replay: general ones with them; mining: hard ones together
    sources     pictures and texts as the model in training sees them
    objective   batches and their loss: all pairs, tiled; parallel: over several processes
    validation  recall on the held-out pictures, and the sign of collapse
    state       checkpoints that survive being killed at any moment
    loop        the training itself
    curves      the log as a picture; tracking: in trackio
    run         all of it in order; what `command` calls
"""
