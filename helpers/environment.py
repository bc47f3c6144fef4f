"""The environment that holds the packages: where it is, whether it is ready, how it is made and mended."""

# Only the standard library here, and syntax that an old Python can read, so that it can say it is too old.
import ast
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from helpers import ROOT

OLDEST, NEWEST = (3, 11), (3, 13)  # of the Pythons: beyond the newest, the pinned TensorFlow has no build
GIGABYTES = 4  # what the packages take on the disk, and pip while it unpacks them
# What would lead pip away from the environment, or let it take for installed what lies elsewhere. Its other
# settings are the user's: mirrors, proxies, certificates.
ELSEWHERE = {"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_DRY_RUN", "PYTHONPATH"}
# What is written below the home, and the variable that sends it elsewhere.
WRITTEN = {
    "MPLCONFIGDIR": (".config/matplotlib", ".cache/matplotlib", ".matplotlib"),
    "IPYTHONDIR": (".ipython",),
    "JUPYTER_CONFIG_DIR": (".jupyter",),
    "JUPYTER_DATA_DIR": (".local/share/jupyter", "Library/Jupyter", "AppData/Roaming/jupyter"),
}


def missing(version, has_module):
    """Return a sentence about what this Python lacks, or None; `has_module` maps a name to true or false."""
    if tuple(version[:2]) < OLDEST:
        return (
            "This is Python {}.{}, and the lessons need 3.11 or newer: install one, and call it by its name, "
            "such as `python3.13 -m helpers lab`.".format(*version[:2])
        )
    if sys.prefix != sys.base_prefix and has_module("pip"):
        return None
    if not (has_module("venv") and has_module("ensurepip")):
        return (
            "This Python can't make virtual environments. On Debian and Ubuntu call "
            "`sudo apt install python3-venv`, then this command again."
        )
    return None


def requirements():
    """Return the pinned packages of requirements.txt, such as "numpy==2.4.6"."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if "==" in line and not line.startswith("#")]


def stamp_text():
    """Return what the installed packages depend on: a digest of the two lists of packages."""
    lists = (ROOT / "requirements.txt").read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(lists).hexdigest() + "\n"


def is_ready(environment):
    """Return whether the packages were installed for this checkout as it is now, and are still there."""
    stamp = environment / "three-ways.txt"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != stamp_text():
        return False
    line = "import helpers, importlib.util as u; assert u.find_spec('ipykernel')"
    return can(environment, line + "; assert os.path.samefile(helpers.ROOT, sys.argv[2])")


def can(environment, line="pass"):
    """Return whether the environment's Python is there, is new enough, and gets through a line of code."""
    # Without its pyvenv.cfg, the environment's Python is the system's, and pip would change that one.
    code = "import os, sys; assert sys.version_info >= {} and os.path.samefile(sys.prefix, sys.argv[1]); {}"
    # -I: as seen from anywhere, without the current folder and PYTHONPATH.
    command = [python_of(environment), "-I", "-c", code.format(OLDEST, line), environment, ROOT]
    try:
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError:
        return False
    return done.returncode == 0


def find_environment():
    """Return the folder of the active virtual environment, or of the suite's own."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix)
    own = ROOT / ".venv"
    if os.access(str(ROOT), os.W_OK) or is_ready(own):
        return own
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")
    elif sys.platform == "darwin":
        cache = home / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or home / ".cache"
    return Path(cache) / "three-ways" / hashlib.sha256(os.fsencode(str(ROOT))).hexdigest()[:12]


def python_of(environment):
    """Return the environment's Python."""
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def install(environment):
    """Make or mend the environment if need be and install the packages in it, or exit with a sentence."""
    problem = missing(sys.version_info, lambda name: find_spec(name) is not None)
    if problem:
        raise SystemExit(problem)
    stamp, python = environment / "three-ways.txt", python_of(environment)
    try:
        if stamp.exists():
            stamp.unlink()
        lead_to_checkout(environment)  # first: a path that this Python can't read keeps it from starting
        provide_pip(environment)
        print("Installing the packages in {}: once, a few minutes.".format(environment), flush=True)
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
        if call(pip + requirements(), env=settings_of_pip(python)):
            raise SystemExit(failure(environment))
        lead_to_checkout(environment)
        stamp.write_text(stamp_text(), encoding="utf-8")
    except OSError as error:
        raise SystemExit("Could not write to {}: {}.".format(environment, error.strerror)) from None
    if not is_ready(environment):
        stamp.unlink()
        raise SystemExit(
            "pip has come to its end, but its packages are not in {}. Look for a setting of yours that sends "
            "them elsewhere: `{} -m pip config debug`.".format(environment, python)
        )
    # Now, for where there are many fonts, Matplotlib says in the first notebook that it looks through them.
    call([python, "-c", "import matplotlib.font_manager"], stderr=subprocess.DEVNULL)
    call([python, "-m", "helpers.installation"], cwd=str(ROOT))


def provide_pip(environment):
    """See to it that the environment has a Python that starts and a pip, or exit with a sentence."""
    pip = "from pip._internal.cli.main import main"
    if not can(environment, pip) and can(environment):
        print("The environment {} has no pip, or half of it: adding it.".format(environment), flush=True)
        call([python_of(environment), "-m", "ensurepip"])
    if not can(environment, pip) and environment != Path(sys.prefix):
        if os.path.lexists(str(python_of(environment))):
            print("The environment {} is broken: making it anew.".format(environment), flush=True)
        call([sys.executable, "-m", "venv", "--clear", environment])
    if not can(environment, pip):
        raise SystemExit(
            "Could not make a virtual environment in {}. Make one where you can write and have room, "
            "`python3 -m venv FOLDER`, activate it, and call this command again.".format(free(environment))
        )


def lead_to_checkout(environment):
    """Let the environment's Python find `helpers`, from any folder and in any encoding."""
    # The path as bytes, in ASCII: pip's own way (`-e .`) writes it in UTF-8, and Python up to 3.12 reads it
    # in the system's encoding. By the same name, so that it takes the place of pip's.
    line = "import os, sys; sys.path.append(os.fsdecode({!r}))\n".format(os.fsencode(str(ROOT)))
    for pattern in ("lib/*/site-packages", "Lib/site-packages"):  # the second on Windows
        for packages in environment.glob(pattern):
            (packages / "helpers.pth").write_text(line, encoding="ascii")


def settings_of_pip(python):
    """Return the variables for pip: all that the user has set, but for what leads out of the environment."""
    variables = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    command = [str(python), "-m", "pip", "config", "list"]
    try:
        settings = subprocess.check_output(command, env=variables, universal_newlines=True)
    except (OSError, subprocess.CalledProcessError):
        return variables  # pip itself will say what it can't read
    # A variable can't undo a line of pip's files. So the files are left out, and their lines handed over.
    for section in ("install.", "global."):
        for line in settings.splitlines():
            if line.startswith(section):
                key, value = line[len(section) :].split("=", 1)
                name = "PIP_" + key.upper().replace("-", "_")
                if name not in ELSEWHERE:
                    variables.setdefault(name, ast.literal_eval(value))
    variables["PIP_CONFIG_FILE"] = os.devnull
    return variables


def failure(environment):
    """Return what to say when pip has failed."""
    if sys.version_info[:2] > NEWEST:
        cause = "This Python is newer than {}.{}: not every package may exist for it yet.".format(*NEWEST)
    else:
        cause = "It needs a network and about {} GB of disk, in {} and, for a while, in {}.".format(
            GIGABYTES, free(environment), free(Path(tempfile.gettempdir()))
        )
    return (
        "pip could not install the packages; its message is above. {} Call the same command again: it goes "
        'on with what is there. More in README.md, under "When it goes wrong".'.format(cause)
    )


def free(folder):
    """Return the folder's name and the room that its disk has."""
    return "{} ({:.1f} GB free)".format(folder, shutil.disk_usage(str(existing(folder))).free / 1e9)


def existing(folder):
    """Return this folder, or the nearest one above it that exists."""
    return next((path for path in [folder, *folder.parents] if os.path.exists(str(path))), folder)


@contextmanager
def surroundings():
    """Give the programs that are started inside this environment's kernel, and folders they can write to."""
    home = Path(os.path.expanduser("~"))
    lacking = [
        variable
        for variable, folders in WRITTEN.items()
        if variable not in os.environ and not all(can_write(home / folder) for folder in folders)
    ]
    with ExitStack() as stack:
        stack.callback(os.environ.update, dict(os.environ))
        stack.callback(os.environ.clear)
        # Jupyter takes the first kernel called python3, and another installation's may come before ours.
        own = os.path.join(sys.prefix, "share", "jupyter")
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [own, os.environ.get("JUPYTER_PATH")]))
        if lacking:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="three-ways-"))
            os.environ.update({variable: os.path.join(folder, variable) for variable in lacking})
        yield


def can_write(folder):
    """Return whether files can be made in this folder, after making it if need be."""
    there = existing(folder)
    return folder.is_absolute() and there.is_dir() and os.access(str(there), os.W_OK | os.X_OK)


def call(command, **options):
    """Run a command and return its exit code; Ctrl-C is the command's to answer."""
    with subprocess.Popen([str(part) for part in command], **options) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                pass
