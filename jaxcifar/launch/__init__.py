"""Many runs: the variants of a recipe, and how they are trained here or on a cluster."""
