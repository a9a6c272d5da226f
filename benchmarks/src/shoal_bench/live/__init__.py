"""A contestant in a process of its own, started once, its pool kept warm, that takes samples when it is asked.

    protocol.py   what the two processes say to each other
    child.py      in that process: opens the system, takes samples          (standard library only)
    process.py    in this one: asks for samples, watches processors and memory, ends it all

    parent                                     child
      ── start the process ───────────────────▶  open the system, take a first result
      ◀─────────────────────────────── opened ──
      ── warm scenario, case ─────────────────▶  whatever happens once; how many tasks a sample is to have
      ◀─────────────────────────────── warmed ──
      ── sample scenario, case, size ─────────▶
      ◀──────────────────────── clock starts ──
      ── go (the processors' time is noted) ──▶  the work
      ◀───────────────────────── clock stops ──
      ── go (it is noted again) ──────────────▶  compare with the sequential answer
      ◀────────────── sampled, void or failed ──
      ── end of the pipe ─────────────────────▶  close the system

An engine's standard output goes to its standard error, of which the last words are kept.
"""
