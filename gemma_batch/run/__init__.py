"""One job from its spec to its report: plan, units, feed, commit, resume."""
