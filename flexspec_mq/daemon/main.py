"""Main functions of all commands and daemons: readable errors, exit codes, quiet garbage collection."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from importlib import util

from flexspec_mq.daemon.logs import log_error, reset
from flexspec_mq.daemon.progress import say
from flexspec_mq.daemon.streams import never_fails
from flexspec_mq.errors import Cancelled, FlexSpecError, UsageError, how_to_install

EXIT_BROKEN_PIPE = 128 + 13
"""As a program that SIGPIPE ended."""


def run_main(
    func: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None, *, extras: str = ""
) -> int:
    """Run a main function and turn what ends it into an exit code.

    A `FlexSpecError` is printed to standard error as ``error: …`` with its hint and gives its own code; it is
    logged instead where all of standard error shall be JSON.
    A package that is not installed is told like that, with what to install.
    Ctrl-C gives 130 without a traceback. A reader of our output that went away (``| head``) is no error of
    ours, and standard error that cannot be written stops nothing. Any other exception is a bug and passes with
    its traceback; so does argparse's SystemExit.

    Args:
        func: takes the arguments after the program's name; None counts as 0.
        argv: arguments; the process's own by default.
        extras: names of extras that the program needs.
    """
    never_fails("stderr")
    try:
        code = func(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except FlexSpecError as error:
        return _report(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or util.find_spec(package) is not None:
            raise
        what = f"install what it takes, {how_to_install(extras)}"
        return _report(UsageError(f"this needs {package}, which is not installed", hint=what))
    except KeyboardInterrupt:
        return Cancelled.exit_code
    except BrokenPipeError:
        # The interpreter flushes standard output once more at exit; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    finally:
        reset()
    return code or 0


def run_subcommand(
    add_parser: Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None],
    name: str,
    argv: Sequence[str],
    *,
    prog: str = "flexspec",
    extras: str = "",
) -> int:
    """Run a subcommand of ``flexspec`` that another distribution registers; returns the exit code.

    Args:
        add_parser: adds the subcommand's parser, which sets ``func``, a function of the parsed arguments.
        name: the subcommand.
        argv: arguments after the name.
        prog: words before the name.
        extras: names of extras that the subcommand needs.
    """

    def run(words: Sequence[str]) -> int | None:
        parser = argparse.ArgumentParser(prog=prog)
        add_parser(parser.add_subparsers(dest="command", required=True))
        args = parser.parse_args([name, *words])
        func: Callable[[argparse.Namespace], int | None] = args.func
        return func(args)

    return run_main(run, argv, extras=extras)


def _report(error: FlexSpecError) -> int:
    if not log_error(error):
        print_error(error)
    return error.exit_code


def print_error(error: FlexSpecError) -> None:
    """Write ``error: …`` and, on a line of its own, the hint to standard error."""
    say(f"error: {error.message}")
    if error.hint:
        say(f"  hint: {error.hint}")


def spare_what_is_loaded() -> None:
    """Keep the garbage collector from all objects that there are now: for a daemon that is ready to serve.

    They are modules and models, some 200,000 objects that stay. To look through them takes a tenth of a second, in
    which no thread gets on: everybody's stream stood still for so long, again and again.
    """
    gc.collect()
    gc.freeze()
