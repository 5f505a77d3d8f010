"""The project's settings with a data directory of the test run's own, so that no service is disturbed."""

import os
import tempfile
from pathlib import Path

TEST_DATA_DIR = Path(tempfile.mkdtemp(prefix="flashsale-tests-"))
TEST_DATA_DIR.chmod(0o755)  # as root, the server runs as another user, who must get in
os.environ["FLASHSALE_DATA_DIR"] = str(TEST_DATA_DIR)
os.environ["FLASHSALE_TRAIN_EXAMPLE"] = "true"
os.environ["DEBUG"] = "false"  # as in production, whatever a developer's .env says

from flashsale_project.settings import *  # noqa: E402, F403
from flashsale_project.settings import INSTALLED_APPS  # noqa: E402

INSTALLED_APPS = [*INSTALLED_APPS, "tests"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
