"""Tests of the example chat site in a real browser: ``trial browser_tests``. They need Chromium on the PATH."""
