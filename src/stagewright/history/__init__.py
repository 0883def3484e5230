"""Records of builds, and why their steps ran: what was built of what, and how it differs from an earlier build."""
