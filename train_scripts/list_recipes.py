"""`hf-ddpm recipes` from a checkout, also for launchers; the program is hf_ddpm/programs/list_recipes.py."""

import sys

from hf_ddpm.programs.list_recipes import main

if __name__ == "__main__":
    sys.exit(main())
