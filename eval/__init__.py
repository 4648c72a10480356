"""Evaluation: metrics, benchmarks of images and videos, reports."""
