"""Tests of the sockets floor."""
