"""Compiled code, private: thin Cython over C. Users reach it through hyperion's public modules."""
