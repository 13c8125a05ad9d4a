"""Analyses that passes run on a graph before they rewrite it."""
