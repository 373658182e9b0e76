"""Did a change make something slower? ``python -m benchmarks.gate BASE HEAD``.

The way of a comparison: `trees` installs both revisions, `pairs` runs one process of each side by side and takes
their times in turns (`worker` is what runs in them, `samples` says what they run), `verdict` decides, and
`__main__` prints it. `proof` plants slow-downs and shows that they are caught.
"""
