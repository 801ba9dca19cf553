"""Measuring a Truecopy: the work, and how long each part of its way takes. `truecopy bench` and `make bench` share it."""
