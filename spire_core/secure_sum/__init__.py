"""Secure aggregation: a server learns the sum of its clients' vectors, and no summand.

keys         keys, agreement and streams: the one home of cryptography
shamir       a secret in shares, of which so many are needed
protocol     the client's and the server's steps of one sum
fixed_point  numbers as integers modulo 2^64, in which masks cancel
"""
