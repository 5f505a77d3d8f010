"""Who may come to the admin, in which order, and what strangers are told."""
