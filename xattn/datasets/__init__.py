"""Pictures with captions, for training and evaluation, from any of these layouts.

DIR/records.jsonl                  one object a line; beside it hard_negatives.jsonl, if there is one
captions_*.json, instances_*.json  COCO; the file or a folder that holds it
TABLE.csv .tsv .jsonl .json …      a picture and captions a row; or a folder with such a table
TABLE.parquet                      the same; the pictures may be inside; or a folder of such files
DIR/**/picture.jpg + picture.txt   any folder; each line of the text is a caption; or picture.json
train-{00..07}.tar                 WebDataset: local paths, URLs that fsspec opens, a folder of tar files
DIR, hf:NAME                       Hugging Face: what `save_to_disk` wrote, or by name from the hub

What is read plus what is in `Dataset.skipped`, with reasons, is what is there.
"""

from xattn.datasets.base import (
    Dataset,
    Fractions,
    HardNegative,
    NamedBox,
    Record,
    SkippedEntry,
    Statement,
)
from xattn.datasets.layout import load_dataset, missing_pictures, read_dataset, read_parts, splits_of

__all__ = [
    "Dataset",
    "Fractions",
    "HardNegative",
    "NamedBox",
    "Record",
    "SkippedEntry",
    "Statement",
    "load_dataset",
    "missing_pictures",
    "read_dataset",
    "read_parts",
    "splits_of",
]
