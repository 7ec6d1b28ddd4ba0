"""What the serving benchmarks share: servers, traffic, a policy to judge, ratios."""
