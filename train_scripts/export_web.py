"""`hf-ddpm export-web` from a checkout, also for launchers; the program is hf_ddpm/programs/export_web.py."""

import sys

from hf_ddpm.programs.export_web import main

if __name__ == "__main__":
    sys.exit(main())
