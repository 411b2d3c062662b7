"""What only a GPU can show, in one command: ``make gpu``, or ``python tests/gpu/run.py`` with torch alone.

``run`` is the command, ``every`` the list of checks in order of their importance; a check is a function in a file of its own or
beside its like, that yields rows. ``checks`` says what rows and checks are, ``runner`` gives each its time and goes on where one
fails, ``report`` writes what was found. ``cases`` makes observations on the CPU and moves them, ``draws`` gives every device the same
random numbers, ``cover`` chooses cases in which all pairs come up, ``watching`` counts what a step does on the device.

Everything here must work with torch alone: what is missing is named, and what needs it is skipped.
"""
