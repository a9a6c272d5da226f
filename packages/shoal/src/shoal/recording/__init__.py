"""What ran when: columns of a run, and what is made of them.

    live            live progress on a terminal, and the lines at the end
    record.py       the record as its readers have it: plain data
    report          the report: one page of what ran, and what would help
    drawing.py      the tasks of a flow and what they pass, as text and picture
    dry_run.py      a flow's body is run to be drawn, its tasks are not

Nothing here is loaded, and nothing is told, unless somebody asks for it. May import scheduling and what lies above it.
"""
