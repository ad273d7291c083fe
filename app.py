"""The door to Debias Studio: `python app.py` serves the page, `python app.py STAGE …` runs one stage."""

import sys

from ui.cli.main import command, main

__all__ = ["command", "main"]

if __name__ == "__main__":
    sys.exit(main())
