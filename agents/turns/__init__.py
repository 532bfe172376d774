"""Turn-taking: when the caller has finished, when he has taken the floor, and when he only coughed."""
