"""Running a grid: its cells, what is planned, done, recorded and shown, and measuring it again. May import everything of the
benchmark but the command.
"""
