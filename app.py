"""The demonstration: `python app.py` searches the sample photos, `--index DIR` an index of your own."""

import argparse
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, metavar="DIR", help="an index made by `xattn index`")
    parser.add_argument("--model", default="default", help="name or directory of the model")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--open-browser", action="store_true", help="open the page in the browser")
    options = parser.parse_args()

    # After the arguments: it takes seconds, and help and mistakes need none of it.
    from xattn.allocator import keep_freed_memory
    from xattn.cli.progress import Preparation
    from xattn.errors import XattnError
    from xattn.ui import launch

    keep_freed_memory()

    try:
        with Preparation() as shown:
            launch(
                options.index,
                options.model,
                host=options.host,
                port=options.port,
                open_browser=options.open_browser,
                announce=shown.announce,
                report=shown.report,
            )
    except XattnError as error:
        print(f"xattn: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
