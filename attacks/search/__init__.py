"""How an objective is minimised: optimisers of many victims at once, step sizes, and the loop that gives each victim a slot. May
import the engine and the objective.
"""
