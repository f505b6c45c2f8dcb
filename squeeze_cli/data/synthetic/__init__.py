"""The drawing of synthetic pets: dice and noise, shapes, animals, backdrops, whole scenes.

Every pixel follows from (seed, index, size) on every machine: random numbers are raw PCG64 output,
whose stream NumPy guarantees; arrays see only the operations that IEEE 754 rounds exactly (+ - * /
sqrt and comparisons) and Pillow's fixed-point resize; sines are taken of scalars and rounded.
"""
