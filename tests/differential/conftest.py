import shutil

import pytest

# Tools that users check their data with, and the Debian packages that bring them.
TOOLS = {
    "convert": "imagemagick",
    "curl": "curl",
    "djpeg": "libjpeg-turbo-progs",
    "exiftool": "libimage-exiftool-perl",
    "tar": "tar",
    "transicc": "liblcms2-utils",
    "vips": "libvips-tools",
}


@pytest.fixture(scope="session", autouse=True)
def _tools():
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        pytest.fail(f"tools to compare with are missing; on Debian: apt-get install {' '.join(missing)}")
