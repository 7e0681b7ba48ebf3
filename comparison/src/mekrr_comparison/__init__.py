"""The paper's experiments, its open questions and today's alternatives, side by side on any data set."""
