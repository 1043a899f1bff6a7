"""The fault harness: real jobs on a real multi-node cluster, attacked, and one check at the end."""
