"""Runs command lines one after another in forked processes, without repeating the imports.

A server imports what the entry points import, and forks for each command line; the child runs the
entry point as `python -m` does, from its flags to its exit code.
"""

import gc
import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from jaxcifar import environment
from tests.helpers import REPOSITORY


class Done(NamedTuple):
    """Result of a command line; `code` is None if it exceeded the time limit and was killed."""

    code: int | None
    out: str
    err: str
    seconds: float


class CommandLines:
    """The server; a context manager."""

    def __init__(self, **variables: str):
        """Starts the server with `variables` in its environment."""
        env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | variables
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.command_server"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Those of an entry point, which would replace the process to have them.
            env=env | environment.cpu_settings(env),
        )

    def __enter__(self) -> "CommandLines":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def run(
        self, target: str, *arguments: Any, cwd: Path, timeout: float = 300, reader: bool = True
    ) -> Done:
        """Runs `target`, a module or the path of a script.

        Standard output is a file or, without a `reader`, a pipe that nobody reads.
        """
        request = {"argv": [target, *map(str, arguments)], "cwd": str(cwd), "timeout": timeout}
        request["reader"] = reader
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the server ended"
        return Done(*json.loads(answer))


def _serve() -> None:
    sys.dont_write_bytecode = True  # a recipe's folder is to stay as it is
    # What takes long to import, and starts no thread by that.
    import orbax.checkpoint  # noqa: F401
    import sklearn.datasets  # noqa: F401

    import jaxcifar.data.cifar_archives
    import jaxcifar.train  # noqa: F401

    if importlib.util.find_spec("tensorflow"):
        import tensorflow_datasets  # noqa: F401
        from clu import metric_writers  # noqa: F401

    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            start = time.perf_counter()
            child = os.fork()
            if not child:
                _become(request, out.fileno(), err.fileno())
            code = _wait(child, request["timeout"])
            seconds = time.perf_counter() - start
            out.seek(0)
            err.seek(0)
            texts = [file.read().decode(errors="replace") for file in (out, err)]
        print(json.dumps([code, *texts, seconds]), flush=True)


def _wait(child: int, timeout: float) -> int | None:
    """Returns a child's exit code, or None if it had to be killed."""
    for _ in range(round(timeout / 0.005)):  # not by the clock: both may be suspended for a while
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _become(request: dict[str, Any], out: int, err: int) -> None:
    """Runs an entry point in this process, and exits as Python does, but without cleaning up.

    That takes seconds, because of all that is imported.
    """
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if not request["reader"]:
        unread, out = os.pipe()
        os.close(unread)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    code: Any = 0
    try:
        if sys.argv[0].endswith(".py"):
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _serve()
