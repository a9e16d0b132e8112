"""Tests of the listeners floor."""
