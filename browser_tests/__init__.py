"""Tests in a real browser, of the example chat site and of the JavaScript client: ``trial browser_tests``. They need
Chromium, with or without windows, on the PATH.
"""
