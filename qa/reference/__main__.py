"""`python -m offhook.qa.reference`."""

import sys

from offhook.qa.reference.server import main

sys.exit(main())
