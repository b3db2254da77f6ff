"""Fine-tunes a model on your own captioned pictures: `xattn train`.

    settings    every number of a run in one frozen dataclass
    data        any dataset → pictures to train on and pictures held out
    modes       which parameters are trained: head, lora, last-blocks, full; lora: by adapters
    sampling    which pictures make a batch; replay: general ones with them; mining: hard ones together
    sources     pictures and texts as the model in training sees them: kept features, or through the towers
    objective   batches, and their loss: all pairs, tiled, the towers in chunks
    parallel    several processes, as torchrun starts them
    validation  recall on the held-out pictures, and the sign of collapse
    checkpoints checkpoints that survive being killed at any moment
    loop        the training itself
    curves      the log as a picture; tracking: in trackio
    run         all of it in order; what `xattn train` calls

In head mode the towers stay frozen: each picture passes them once per view, and what they say is kept.
"""
