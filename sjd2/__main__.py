"""`python -m sjd2` is the command `sjd2`."""

from sjd2.cli import main

raise SystemExit(main())
