"""The `shoal` command. Thin: it uses the public names of shoal, and nothing imports it.

    app.py                    the commands by name, and how each of them ends
    console.py                what is printed where: results, errors, the tracebacks of failed flows
    run.py                    shoal run
      targets.py                which flow: `path/to/file.py:flow`, `module:flow`
      parameters.py             with what: `-p name=value`
      signals.py                until when: Ctrl-C and SIGTERM
    resume.py                 shoal resume
    runs.py                   shoal runs: the journals of this machine
    report.py                 shoal report, and what `run --report` records
    runners.py                shoal runners
    doctor.py                 shoal doctor
      doctor_facts.py           what is so: it looks at the machine
      doctor_findings.py        what is wrong with that, and the way out; pure
    concurrency_limit.py      shoal concurrency-limit
    global_concurrency_limit.py  shoal global-concurrency-limit, or gcl
      limits_shown.py           how both show limits
    cache.py                  shoal cache
    tables.py                 how commands list things: tables, or JSON
    demo_command.py           shoal demo
      demo.py                   its flow, an example worth reading
      demo_screen.py            what it shows

A new command is a file with a function or an `App` of its own, and a line in `app.py`; another package adds one by an
entry point. cyclopts and rich are imported in this package only, and not by `demo.py`, which workers import too.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> int:
    """Runs the command with the arguments of the process, and gives its exit code."""
    try:
        from shoal.cli.app import invoke

        return invoke()
    except KeyboardInterrupt:  # perhaps in the middle of an import
        return 130
