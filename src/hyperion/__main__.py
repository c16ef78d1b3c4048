"""``python -m hyperion`` is the ``hyperion`` command."""

from hyperion.cli import main

raise SystemExit(main())
