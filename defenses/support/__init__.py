"""What every room needs, whatever it does: checks of parameters, registries, seeds, copies to the device, and layers of models
found by what they are. Imports torch alone; everything may import it.
"""
