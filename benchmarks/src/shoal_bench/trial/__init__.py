"""A user's own flow on every runner: `shoal bench advise`.

child.py      runs the flow once on one runner, in a process of its own, and notes what that took
lengths.py    how long each task's function runs, seen on the sequential runner
trial.py      the parent's side: a process for each runner, its processors, its end
words.py      which runner to take, and why. Pure
"""
