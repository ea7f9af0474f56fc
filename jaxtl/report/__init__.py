"""Builds reports: tables, figures and pages from the rows of finished cells."""
