"""What each mode trains, whatever the towers are.

    head         the cross-attention; of the default model also the fusion and the text head
    lora         that, and low-rank adapters of every matrix in the towers' blocks
    last-blocks  that, and the towers' last blocks with all that comes after them
    full         everything

The *nets* of a tower are the modules that were trained elsewhere, one or more; each is a list of blocks
with something before and after it (`blocks_of`).
"""

from __future__ import annotations

import torch
from torch import nn

from xattn.encoders.hybrid.text import SentenceEncoder
from xattn.encoders.hybrid.vision import HybridEncoder
from xattn.encoders.openclip.model import OpenClipText, OpenClipVision
from xattn.errors import DataError
from xattn.model import XAttnModel
from xattn.training.lora import add_adapters
from xattn.training.settings import Settings

CONTAINERS = ("resblocks", "blocks", "stages", "layers", "layer", "block")
"""What open_clip, timm, torch and transformers call a list of blocks."""
UNUSED = ("logit_scale", "logit_bias")
"""open_clip's own scale and bias: the loss here has its own."""


def is_default(model: XAttnModel) -> bool:
    """Whether the towers are xattn's own, whose fusion and text head head mode trains."""
    return isinstance(model.vision, HybridEncoder) and isinstance(model.text, SentenceEncoder)


def heads_of(model: XAttnModel) -> tuple[nn.Module, ...]:
    """What every mode trains."""
    if isinstance(model.vision, HybridEncoder) and isinstance(model.text, SentenceEncoder):
        return model.attention, model.vision.fusion, model.text.head
    return (model.attention,)


def nets_of(model: XAttnModel) -> tuple[nn.Module, ...]:
    """The towers' pretrained nets. Raises DataError for towers of a kind that cannot be fine-tuned."""
    vision, text = model.vision, model.text
    if isinstance(vision, HybridEncoder) and isinstance(text, SentenceEncoder):
        return vision.conv, vision.vit, text
    if isinstance(vision, OpenClipVision) and isinstance(text, OpenClipText):
        return vision.visual, text.clip
    raise DataError(
        f"{model.name} cannot be fine-tuned: its towers are {type(vision).__name__} and "
        f"{type(text).__name__}, expected those of the default model or of open_clip"
    )


def free(model: XAttnModel, settings: Settings) -> None:
    """Sets `requires_grad` as the mode wants it, and adds adapters, drawn by the seed."""
    nets = nets_of(model)
    model.requires_grad_(settings.mode == "full")
    if settings.mode == "lora":
        torch.manual_seed(settings.seed)
        add_adapters((b for net in nets for b in blocks_of(net)[0]), settings.rank, settings.alpha)
    if settings.mode == "last-blocks":
        for net in nets:
            blocks, after = blocks_of(net)
            for part in (*blocks[-settings.blocks :], *after):
                part.requires_grad_(True)
    for module in heads_of(model):
        module.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in UNUSED:
            parameter.requires_grad_(False)


def blocks_of(net: nn.Module) -> tuple[list[nn.Module], list[nn.Module | nn.Parameter]]:
    """(blocks from the input on, what comes after them). A net without a list of blocks is taken as one
    of its direct parts, such as the stages and the attention pool of CLIP's ResNet."""
    lists = [
        (sum(p.numel() for p in module.parameters()), path)
        for path, module in net.named_modules()
        if path.rpartition(".")[2] in CONTAINERS and isinstance(module, (nn.ModuleList, nn.Sequential))
    ]
    if not lists:
        return [child for child in net.children() if any(True for _ in child.parameters())], []
    path = max(lists, key=lambda found: found[0])[1]  # of nested ones the outermost
    after: list[nn.Module | nn.Parameter] = []
    module = net
    for part in path.split("."):
        after += [p for name, p in module.named_parameters(recurse=False) if "proj" in name]
        names = [name for name, _ in module.named_children()]
        # Parts are registered in the order in which they work, but for some text towers' embeddings.
        later = list(module.children())[names.index(part) + 1 :]
        after += [child for child in later if not isinstance(child, nn.Embedding)]
        module = module.get_submodule(part)
    return list(module.children()), after
