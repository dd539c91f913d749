"""`hf-ddpm render-page` from a checkout, also for launchers; the program is hf_ddpm/programs/render_page.py."""

import sys

from hf_ddpm.programs.render_page import main

if __name__ == "__main__":
    sys.exit(main())
