"""The adapters of the log port. Import the one you use: each brings its own dependencies.

`memory` is complete and in process; `sqlite` is durable and shared by the processes of one machine; `kafka` is the real one.
"""

__all__: list[str] = []
