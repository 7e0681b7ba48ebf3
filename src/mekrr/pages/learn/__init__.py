"""A run that learnt while it computed, as a page: what was labelled, how wrong it had been predicted, where it led."""

from mekrr.pages.learn.page import write_page
from mekrr.pages.learn.story import Story

__all__ = ["Story", "write_page"]
