"""`python -m cgrseg` is the `cgrseg` command."""

import sys

from cgrseg.cli.main import main

sys.exit(main())
