"""Products with stored matrices that read memory once, in C where there is a compiler and in torch elsewhere. Imports torch
alone.
"""
