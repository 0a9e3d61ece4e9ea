"""Positions in the anatomy: volumes are placed on one axis by the likeness of their slices.

The images of the slices are given as features. No label and no landmark is needed. See
:func:`poscon.alignment.align.align`.
"""
