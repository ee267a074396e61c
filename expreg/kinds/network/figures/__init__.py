"""Figures and tables of networks."""
