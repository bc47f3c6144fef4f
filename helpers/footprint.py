"""What a tool costs to have: packages, disk, CPU seconds to import, memory."""

import json
import os
import subprocess
import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.installation import MODULES

PACKAGES = {module: package for package, module in MODULES.items()}
IMPORT = """
import importlib, json, sys, time
import psutil
begin = time.process_time()
for module in sys.argv[1:]:
    importlib.import_module(module)
seconds = time.process_time() - begin
print(json.dumps([seconds, psutil.Process().memory_info().rss / 1e6]))
"""


def with_requirements(packages):
    """Return the names of packages and of all installed ones that they ask for on this machine, a set."""
    found, left = set(), [*packages]
    while left:
        name = canonicalize_name(left.pop())
        try:
            wanted = [Requirement(each) for each in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            left += [each.name for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


def megabytes(packages):
    """Return the size of the files of installed packages, in 10^6 bytes, as their records list them."""
    files = [file.locate() for name in packages for file in metadata.files(name) or ()]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def of(*modules, **environment):
    """Return (packages, megabytes on disk, CPU seconds to import, megabytes of memory) of installed modules.

    Their packages count with all that these ask for. A new process imports them, with these environment
    variables; its memory is Python's and theirs.
    Raises a RuntimeError where one can't be imported.
    """
    command = [sys.executable, "-c", IMPORT, *modules]
    run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{', '.join(modules)} can't be imported:\n{run.stderr[-1000:]}")
    seconds, memory = json.loads(run.stdout.splitlines()[-1])
    tops = {module.split(".")[0] for module in modules}
    beneath = with_requirements(PACKAGES.get(top, top) for top in tops)
    return len(beneath), megabytes(beneath), seconds, memory
