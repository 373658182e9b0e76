"""Every Python block of the pages is run, each page in an empty folder: ``pytest docs``."""

import os
import tempfile

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser


def _enter_folder(namespace):
    namespace["before"], namespace["folder"] = os.getcwd(), tempfile.TemporaryDirectory()
    os.chdir(namespace["folder"].name)


def _leave_folder(namespace):
    os.chdir(namespace["before"])
    namespace["folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["*.md"], setup=_enter_folder, teardown=_leave_folder
).pytest()
